/** Nothing stays behind, however the process that started a machine ends. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isAlive, until, withoutQemu } from './qemu.ts';

const program = fileURLToPath(new URL('./machine-holder.js', import.meta.url));

/** Children of a process, by /proc. */
function ours(folder: string): string[] {
  return readdirSync(folder).filter((name) => /qemu|dmapool/i.test(name) && !name.startsWith('dmapool-test'));
}

void describe('a process that ends', { skip: withoutQemu }, () => {
  for (const how of ['SIGKILL', 'SIGINT', 'SIGTERM', 'exit', 'throw', 'terminate']) {
    void it(`by ${how} leaves no QEMU, no watchdog and no file`, async () => {
      const folders = [tmpdir(), '/dev/shm', process.cwd()];
      const before = folders.map(ours);
      const child = spawn(process.execPath, [program, how], { stdio: ['pipe', 'pipe', 'ignore'] });
      const ended = once(child, 'exit');
      const lines = createInterface(child.stdout);
      const [line] = (await once(lines, 'line')) as [string];
      const pid = Number(line);
      assert.ok(pid > 1, line);
      if (how.startsWith('SIG')) {
        // The shell that watches is the one started just before.
        assert.ok(isAlive(pid));
        child.kill(how as NodeJS.Signals);
      } else if (how === 'terminate') {
        child.stdin.write('now\n');
      }
      await until(`QEMU has ended after ${how}`, () => !isAlive(pid));
      child.kill('SIGKILL');
      await ended;
      assert.deepEqual(folders.map(ours), before);
    });
  }
});
