/** A recording of the NVMe demo replays without a difference. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { withoutQemu } from '../qemu/qemu.ts';
import { privateFolder, root } from './program.ts';

const COMMAND = join(root, 'bin', 'dmapool.js');

test(
  'dmapool demo nvme, with DMAPOOL_OBSERVE=1, is recorded and replays',
  { skip: withoutQemu, timeout: 180_000 },
  async () => {
    const folder = privateFolder();
    const env = { ...process.env, XDG_RUNTIME_DIR: folder };
    // Several demos, so that the process outlives the recording, also on a loaded machine.
    const program = `
      const { processIo, run } = await import(${JSON.stringify(pathToFileURL(join(root, 'dist/src/cli/main.js')).href)});
      for (let i = 0; i < 6; i++) process.exitCode ||= await run(['demo', 'nvme'], processIo());
    `;
    const demo = spawn(process.execPath, ['--input-type=module', '-e', program], {
      env: { ...env, DMAPOOL_OBSERVE: '1' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = new Promise<number | null>((resolve) => demo.once('exit', resolve));
    const run = (...args: readonly string[]): string => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, ...args], { env, encoding: 'utf8' });
      assert.deepEqual([status, stderr], [0, ''], args.join(' '));
      return stdout;
    };
    try {
      // After the first line the controller and its pools exist.
      await new Promise((resolve) => demo.stdout.once('data', resolve));
      const file = join(folder, 'nvme.trace.gz');
      const args = ['-o', file, '--seconds', '4', '--limit', '1000000', '--json'];
      const { pools, allocations } = JSON.parse(run('record', String(demo.pid), ...args)) as Record<string, number>;
      assert.ok(pools! >= 3, String(pools));
      assert.ok(allocations! > 1000, String(allocations));
      const { failures, mismatches } = JSON.parse(run('replay', file, '--json', '--repeat', '1')) as {
        failures: number;
        mismatches: unknown[];
      };
      assert.deepEqual({ failures, mismatches }, { failures: 0, mismatches: [] });
      demo.stdout.resume();
      assert.equal(await ended, 0);
    } finally {
      demo.kill();
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
