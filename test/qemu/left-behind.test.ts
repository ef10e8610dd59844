/** Nothing is left behind, however the process that started a machine ends. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isAlive, parentOf, processesWith, withoutQemu } from './qemu.ts';
import { until } from '../support/until.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const program = fileURLToPath(new URL('./machine-holder.js', import.meta.url));

/** Files in /dev/shm that QEMU or this package may have created. */
function sharedMemory(): string[] {
  return readdirSync('/dev/shm').filter((name) => /qemu|dmapool/i.test(name));
}

void describe('a process that ends', { skip: withoutQemu }, () => {
  for (const how of ['SIGKILL', 'SIGINT', 'SIGTERM', 'exit', 'throw', 'terminate']) {
    void it(`by ${how} leaves no QEMU, no watchdog and no file`, async (t) => {
      // Separate folders, since other tests use the usual ones meanwhile.
      const folder = temporaryFolder(t);
      const before = sharedMemory();
      const child = spawn(process.execPath, [program, how], {
        cwd: folder,
        env: { ...process.env, TMPDIR: folder },
        stdio: ['pipe', 'pipe', 'ignore'],
      });
      t.after(() => child.kill('SIGKILL'));
      const ended = once(child, 'exit');
      const lines = createInterface(child.stdout);
      const [line] = (await once(lines, 'line')) as [string];
      const pid = Number(line);
      assert.ok(pid > 1, line);
      // If the assertion fails, the test still cleans up.
      t.after(() => {
        if (isAlive(pid)) process.kill(pid, 'SIGKILL');
      });
      // The program also started the shells that act as watchdogs.
      const watchdogs = processesWith('read -r pid').filter((shell) => parentOf(shell) === child.pid);
      if (how.startsWith('SIG')) {
        assert.ok(isAlive(pid));
        child.kill(how as NodeJS.Signals);
      } else if (how === 'terminate') {
        child.stdin.write('now\n');
      }
      await until(`QEMU has ended after ${how}`, () => !isAlive(pid));
      await until(`its watchdog has ended after ${how}`, () => !watchdogs.some(isAlive));
      child.kill('SIGKILL');
      await ended;
      assert.deepEqual(readdirSync(folder), []);
      assert.deepEqual(sharedMemory(), before);
    });
  }

  void it('by itself after unref() ends its machine too', { timeout: 30_000 }, async (t) => {
    const child = spawn(process.execPath, [program, 'unref'], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    const printed = await text(child.stdout);
    assert.deepEqual(await ended, [0, null]);
    const [pid, ...lines] = printed.split('\n');
    t.after(() => {
      if (isAlive(Number(pid))) process.kill(Number(pid), 'SIGKILL');
    });
    assert.deepEqual(lines, ['10000ed', 'the machine ends with the program', '']);
    await until('QEMU has ended', () => !isAlive(Number(pid)));
  });
});
