/** `npm run vm`: the virtual machine from the command line. */

import assert from 'node:assert/strict';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { itInVm } from './machine.ts';

const CLI = fileURLToPath(new URL('../../scripts/vm/cli.js', import.meta.url));

describe('npm run vm', () => {
  itInVm('passes input, output, errors and the exit code, and says what ran it', async (t) => {
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

  itInVm('says nothing of its own with --quiet', async (t) => {
    const child = start(t, '--quiet', 'true');
    child.stdin.end();
    assert.deepEqual(await outcome(child), { code: 0, signal: null, stdout: '', stderr: '' });
  });

  itInVm('ends with 124 after a time-out', async (t) => {
    const child = start(t, '--timeout', '1', 'sleep', '1000');
    const { code, stderr } = await outcome(child);
    assert.equal(code, 124);
    assert.match(stderr, /the command took longer than 1 s; the machine was ended\n/);
  });

  itInVm('ends the machine when it is told to end', async (t) => {
    const child = start(t, 'sh', '-c', 'echo begun; sleep 1000');
    await once(child.stdout, 'data');
    const machine = machineOf(child.pid!);
    child.kill('SIGTERM');
    assert.equal((await outcome(child)).code, 143);
    assert(!running(machine));
  });

  itInVm('leaves nothing behind when it is killed', async () => {
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

  itInVm('runs the command on the console', async (t) => {
    const child = start(t, '--console', 'sh', '-c', 'tty; read word; echo "got $word"; exit 3');
    let said = '';
    let typed = false;
    child.stdout.on('data', (data: Buffer) => {
      // It comes in pieces, as from a terminal.
      said += data.toString();
      if (!typed && said.includes('/dev/ttyS0')) child.stdin.write('typed\n');
      typed = said.includes('/dev/ttyS0');
    });
    const { code, stdout } = await outcome(child);
    assert.equal(code, 3);
    assert.match(stdout, /\/dev\/ttyS0\r?\n[^]*got typed\r?\n/);
  });
});

/** The command, which ends at the latest with the test. */
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

/** The process id of the machine that the process has started. */
function machineOf(parent: number): number {
  const child = readdirSync('/proc').find((pid) => {
    try {
      return new RegExp(`^PPid:\\t${parent}$`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false;
    }
  });
  assert(child !== undefined, 'the machine runs');
  return Number(child);
}

function running(pid: number): boolean {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
