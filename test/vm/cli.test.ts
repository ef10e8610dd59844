/** The command line of the virtual machine, `npm run vm`. */

import assert from 'node:assert/strict';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cachedKernel, KERNEL_SERIES } from '../../scripts/vm/kernel.ts';
import { itInVm } from './machine.ts';

const CLI = fileURLToPath(new URL('../../scripts/vm/cli.js', import.meta.url));

describe('npm run vm', () => {
  itInVm('relays input, output, errors and the exit code, and prints the accelerator', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'dmapool-vm-test-'));
    try {
      const log = join(folder, 'dmesg');
      const child = start(
        t,
        '--dmesg',
        log,
        '--edu',
        'sh',
        '-c',
        'cat; echo error >&2; ls /sys/bus/pci/devices; exit 42',
      );
      child.stdin.end('input\n');
      const { code, stdout, stderr } = await outcome(child);
      assert.equal(code, 42);
      assert.match(stdout, /^input\n[^]*0000:00:10\.0\n/);
      assert.match(stderr, /^vm: (KVM|TCG)[^\n]*\n(vm: [^\n]*\n)?error\nvm: \d+\.\d s: kernel \d/);
      assert.match(readFileSync(log, 'utf8'), /dmapool-vm: the command ended with 42\n$/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  itInVm('prints no messages of its own with --quiet', async (t) => {
    const child = start(t, '--quiet', 'true');
    child.stdin.end();
    assert.deepEqual(await outcome(child), { code: 0, signal: null, stdout: '', stderr: '' });
  });

  itInVm('exits with 124 after a timeout', async (t) => {
    const child = start(t, '--timeout', '1', 'sleep', '1000');
    const { code, stderr } = await outcome(child);
    assert.equal(code, 124);
    assert.match(stderr, /the command took longer than 1 s; the machine was killed\n/);
  });

  itInVm('kills the machine on SIGTERM', async (t) => {
    const child = start(t, 'sh', '-c', 'echo begun; sleep 1000');
    await once(child.stdout, 'data');
    const machine = machineOf(child.pid!);
    child.kill('SIGTERM');
    assert.equal((await outcome(child)).code, 143);
    assert(!running(machine));
  });

  itInVm('leaves no process and no file behind after SIGKILL', async () => {
    const temporary = mkdtempSync(join(tmpdir(), 'dmapool-vm-test-'));
    try {
      const child = spawn(process.execPath, [CLI, '--nvme', '64M', 'sh', '-c', 'echo begun; sleep 1000'], {
        env: { ...process.env, TMPDIR: temporary },
      });
      await once(child.stdout, 'data');
      const machine = machineOf(child.pid!);
      child.kill('SIGKILL');
      await once(child, 'exit');
      for (let tries = 0; running(machine) && tries < 100; tries++) await setTimeout(100);
      assert(!running(machine));
      assert.deepEqual(readdirSync(temporary), []);
    } finally {
      rmSync(temporary, { recursive: true });
    }
  });

  itInVm('gives devices the addresses of their order, also those of --device', async (t) => {
    const list = 'for d in /sys/bus/pci/devices/0000:00:1[0-3].0; do echo ${d##*/} $(cat $d/device); done';
    const child = start(t, '--quiet', '--edu', '--device', 'virtio-rng-pci', '--e1000', '1', 'sh', '-c', list);
    child.stdin.end();
    const { stdout } = await outcome(child);
    assert.equal(stdout, '0000:00:10.0 0x11e8\n0000:00:11.0 0x1005\n0000:00:12.0 0x100e\n');
  });

  // At least one series is in the cache. The tests download no other.
  for (const series of KERNEL_SERIES.filter((name) => cachedKernel(name) !== null)) {
    itInVm(`boots Linux ${series} with --kernel, whatever DMAPOOL_VM_KERNEL selects`, async (t) => {
      const other = KERNEL_SERIES.find((name) => name !== series)!;
      const env = { ...process.env, DMAPOOL_VM_KERNEL: other };
      const child = spawn(process.execPath, [CLI, '--quiet', '--kernel', series, 'uname', '-r'], { env });
      t.after(() => child.kill());
      child.stdin.end();
      const { stdout, stderr } = await outcome(child);
      assert.equal(stdout, `${cachedKernel(series)!.release}\n`, stderr);
    });
  }

  itInVm('runs the command on the console', async (t) => {
    const child = start(t, '--console', 'sh', '-c', 'tty; read word; echo "got $word"; exit 3');
    let output = '';
    let typed = false;
    child.stdout.on('data', (data: Buffer) => {
      // The output may arrive in parts, as from a terminal.
      output += data.toString();
      if (!typed && output.includes('/dev/ttyS0')) child.stdin.write('typed\n');
      typed = output.includes('/dev/ttyS0');
    });
    const { code, stdout } = await outcome(child);
    assert.equal(code, 3);
    assert.match(stdout, /\/dev\/ttyS0\r?\n[^]*got typed\r?\n/);
  });
});

/** Starts the command. Kills it at the end of the test. */
function start(t: TestContext, ...args: string[]): ChildProcessWithoutNullStreams {
  const child = spawn(process.execPath, [CLI, ...args]);
  t.after(() => child.kill());
  return child;
}

interface Outcome {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function outcome(child: ChildProcessWithoutNullStreams): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  return { code, signal, stdout, stderr };
}

/** Returns the process id of the machine, a child of the process. */
function machineOf(parent: number): number {
  const child = readdirSync('/proc').find((pid) => {
    try {
      return new RegExp(`^PPid:\\t${parent}$`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false;
    }
  });
  assert(child !== undefined, 'the machine is running');
  return Number(child);
}

function running(pid: number): boolean {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
