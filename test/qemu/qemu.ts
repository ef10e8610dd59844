/** Helpers of the tests on QEMU. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { QemuMachine, type QemuMachineOptions } from 'dmapool/qemu';

/** For the `skip` of a test: the reason why it cannot run, or false. */
export const withoutQemu: string | false =
  spawnSync('qemu-system-x86_64', ['--version']).error === undefined
    ? false
    : 'QEMU is missing: apt-get install --no-install-recommends qemu-system-x86';

/** A program in place of QEMU: a script for Node in a file of that folder. */
export function programInFolder(folder: string, name: string, script: string): string {
  const file = join(folder, name);
  writeFileSync(file, `#!${process.execPath}\n${script}`);
  chmodSync(file, 0o755);
  return file;
}

/** The program of peer.ts. */
export function peerInFolder(folder: string): string {
  return programInFolder(folder, 'peer', `import(${JSON.stringify(new URL('./peer.js', import.meta.url).href)});\n`);
}

/** A machine that is closed after the test. */
export async function startMachine(t: TestContext, options: QemuMachineOptions = {}): Promise<QemuMachine> {
  const machine = await QemuMachine.start(options);
  t.after(() => machine.close());
  return machine;
}

/** Whether a process exists and is not a zombie. */
export function isAlive(pid: number): boolean {
  const file = `/proc/${String(pid)}/stat`;
  if (!existsSync(file)) return false;
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(file, 'utf8'));
  } catch {
    return false;
  }
}

/** The parent's process id; -1 when the process does not exist. */
export function parentOf(pid: number): number {
  try {
    return Number(/^\d+ \(.*\) . (\d+)/.exec(readFileSync(`/proc/${String(pid)}/stat`, 'utf8'))?.[1] ?? -1);
  } catch {
    return -1;
  }
}

/** Processes whose command line contains the text: QEMU's machines, and their watchdog shells. */
export function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${String(pid)}/cmdline`, 'utf8').includes(text) && isAlive(pid);
      } catch {
        return false;
      }
    });
}

/** Registers of QEMU's educational device (docs/specs/edu in QEMU's documentation). */
export const EDU: {
  readonly id: 0x00;
  readonly liveness: 0x04;
  readonly factorial: 0x08;
  readonly status: 0x20;
  readonly interruptStatus: 0x24;
  readonly raise: 0x60;
  readonly acknowledge: 0x64;
  readonly source: 0x80;
  readonly destination: 0x88;
  readonly count: 0x90;
  readonly command: 0x98;
  readonly buffer: 0x40000;
} = {
  id: 0x00,
  liveness: 0x04,
  factorial: 0x08,
  status: 0x20,
  interruptStatus: 0x24,
  raise: 0x60,
  acknowledge: 0x64,
  source: 0x80,
  destination: 0x88,
  count: 0x90,
  command: 0x98,
  buffer: 0x40000,
};
