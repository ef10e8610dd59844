/** Helpers of the VFIO tests in the virtual machine. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const BUS_MASTER = 4;

/** Address of the machine's first device. */
export const FIRST = '0000:00:10.0';

export function freeHugepages(): number {
  return Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
}

/** Faults of the IOMMU in the kernel's log: device and address of each. */
export function iommuFaults(): { device: string; address: number }[] {
  const log = execFileSync('dmesg', { encoding: 'utf8', maxBuffer: 2 ** 26 });
  return [
    ...log.matchAll(
      /DMAR: \[DMA (?:Read|Write)[^\]]*\] Request device \[([0-9a-f:.]+)\] fault addr (?:0x)?([0-9a-f]+)/g,
    ),
  ].map((match) => ({ device: match[1]!, address: parseInt(match[2]!, 16) }));
}

/** The kernel's view of a function's command register. */
export function isBusMaster(address: string): boolean {
  return (readFileSync(`/sys/bus/pci/devices/${address}/config`).readUInt16LE(4) & BUS_MASTER) !== 0;
}

/** Writes to a kernel file in a separate process, since the write may wait for this one. */
export function writeInBackground(text: string, path: string): ChildProcess {
  return spawn('sh', ['-c', `echo ${text} > ${path}`], { stdio: 'ignore' });
}

/** Waits until a condition holds; false if it does not within 10 seconds. */
export async function within10s(isSo: () => boolean): Promise<boolean> {
  const end = Date.now() + 10_000;
  while (!isSo()) {
    if (Date.now() > end) return false;
    await setTimeout(20);
  }
  return true;
}

/** Waits for the kernel's disk. */
export async function diskAppears(path: string): Promise<void> {
  if (!(await within10s(() => existsSync(path)))) throw new Error(`the kernel has no ${path}`);
}

/** Opens a device in a process without root privileges; returns `opened`, or the code and message of the error. */
export function openUnprivileged(address: string, options = '{}'): string {
  const program = `
    import { VfioDevice } from 'dmapool/linux';
    try { await (await VfioDevice.open('${address}', ${options})).close(); console.log('opened'); }
    catch (error) { console.log(error.code, error.message); }
  `;
  const cwd = fileURLToPath(new URL('../../../', import.meta.url));
  const as = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
  const run = spawnSync('setpriv', [...as, process.execPath, '--input-type=module', '-e', program], {
    cwd,
    encoding: 'utf8',
  });
  assert.equal(run.stderr, '');
  return run.stdout.trim();
}
