/** Helpers of the tests of the NVMe driver. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { CoherentAllocator } from 'dmapool';
import { NvmeController, type NvmeNamespace, type NvmeOptions } from 'dmapool/drivers/nvme';
import type { PciFunction } from 'dmapool/pci';
import type { QemuMachine, QemuOption, QemuOptionObject } from 'dmapool/qemu';
import { startMachine } from '../../qemu/qemu.ts';
import { diskImage } from '../../support/disk-image.ts';
import { RecordingLog } from '../../support/log.ts';
import { MIB } from '../../support/sizes.ts';

export interface BenchOptions {
  /** Size of the disk in bytes. */
  readonly size?: number;
  readonly drive?: QemuOptionObject;
  readonly device?: QemuOptionObject;
  readonly devices?: readonly QemuOption[];
  readonly memory?: number;
  readonly highMemory?: number;
  /** Names of QEMU's trace events, which are written to the file {@link traceOf}. */
  readonly trace?: string;
}

/** The trace file of a machine with this disk; complete after the machine is closed. */
export function traceOf(file: string): string {
  return `${file}.trace`;
}

/**
 * A machine with an NVMe controller `nvme0` on a disk. Half its memory is above 4 GiB, so that both halves of addresses
 * are used.
 */
export async function startBench(
  t: TestContext,
  {
    size = 16 * MIB,
    drive = {},
    device = {},
    devices = [],
    memory = 128 * MIB,
    highMemory = memory / 2,
    trace,
  }: BenchOptions,
): Promise<{ machine: QemuMachine; file: string }> {
  const file = diskImage(t, size);
  const machine = await startMachine(t, {
    memory,
    highMemory,
    drives: [{ id: 'disk0', file, options: { discard: 'unmap', ...drive } }],
    devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: 'S/N 1', ...device }, ...devices],
    args: trace === undefined ? [] : ['-trace', trace, '-D', traceOf(file)],
  });
  return { machine, file };
}

export interface NvmeBench {
  readonly machine: QemuMachine;
  readonly file: string;
  readonly pci: PciFunction;
  readonly nvme: NvmeController;
  readonly disk: NvmeNamespace;
  readonly log: RecordingLog;
}

/** A bench with the driver running and namespace 1 open. */
export async function startNvme(
  t: TestContext,
  { bench = {}, memory, ...options }: NvmeOptions & { bench?: BenchOptions; memory?: CoherentAllocator } = {},
): Promise<NvmeBench> {
  const { machine, file } = await startBench(t, bench);
  const log = new RecordingLog();
  const pci = await machine.open('nvme0', { log, ...(memory === undefined ? {} : { memory }) });
  const nvme = await NvmeController.open(pci, options);
  const disk = await nvme.namespace(1);
  return { machine, file, pci, nvme, disk, log };
}

/** Closes the driver and its function; checks that no block is allocated and that nothing was logged. */
export async function closeNvme({ nvme, pci, log }: NvmeBench): Promise<void> {
  const { pools } = nvme;
  assertIdle(nvme);
  await nvme.close();
  for (const pool of pools) assert.equal(pool.statistics().pages, 0, pool.name);
  assert.equal(pci.device.readAttribute('pools'), undefined);
  await pci.close();
  assert.doesNotMatch(log.text, /busy|leak|spurious/);
}

/** Checks that no block of the driver's pools is allocated. */
export function assertIdle(nvme: NvmeController): void {
  for (const pool of nvme.pools) assert.equal(pool.statistics().active, 0, pool.name);
  assert.equal(nvme.statistics().load, 0);
}
