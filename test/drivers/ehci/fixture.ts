/** Helpers of the tests of the EHCI driver. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { EhciController, type EhciOptions } from 'dmapool/drivers/ehci';
import type { PciFunction } from 'dmapool/pci';
import type { QemuMachine, QemuOption, QemuOptionObject } from 'dmapool/qemu';
import { startMachine } from '../../qemu/qemu.ts';
import { diskImage } from '../../support/disk-image.ts';
import { FaultySource } from '../../support/faulty-memory.ts';
import { RecordingLog } from '../../support/log.ts';

export const MIB: number = 1024 * 1024;

/** A machine with an EHCI controller `ehci` and a USB disk `stick` on it. */
export async function startWithDisk(
  t: TestContext,
  content: Uint8Array,
  drive: QemuOptionObject = {},
  devices: readonly QemuOption[] = [],
): Promise<{ machine: QemuMachine; file: string }> {
  const file = diskImage(t, content);
  const machine = await startMachine(t, {
    // A driver that uses addresses above 4 GiB would fail: this controller is limited to 32 bits.
    memory: 64 * MIB,
    highMemory: 32 * MIB,
    drives: [{ id: 'disk0', file, options: drive }],
    devices: [
      { driver: 'usb-ehci', id: 'ehci' },
      { driver: 'usb-storage', id: 'stick', bus: 'ehci.0', drive: 'disk0' },
      ...devices,
    ],
  });
  return { machine, file };
}

export interface Bench {
  readonly pci: PciFunction;
  readonly controller: EhciController;
  readonly memory: FaultySource;
  readonly log: RecordingLog;
}

/** Allocated blocks by pool, from the device's attribute. */
export function activeBlocks(pci: PciFunction): Record<string, number> {
  const lines = (pci.device.readAttribute('pools') ?? '').split('\n').slice(1, -1);
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, 16).trim(), Number(line.slice(17).trim().split(/ +/)[0])]),
  );
}

/** Runs `action` with the controller; closes it, after a failure too, and checks that no block and no page is left. */
export async function withController(
  machine: QemuMachine,
  action: (bench: Bench) => Promise<void>,
  { fate, ...options }: EhciOptions & { readonly fate?: FaultySource['onAlloc'] } = {},
): Promise<FaultySource> {
  const log = new RecordingLog();
  const memory = new FaultySource(machine.memory);
  if (fate !== undefined) memory.onAlloc = fate;
  const pci = await machine.open('ehci', { log, memory });
  try {
    const controller = await EhciController.open(pci, options);
    try {
      await action({ pci, controller, memory, log });
    } finally {
      await controller.close();
    }
  } finally {
    // Pools destroyed with allocated blocks would have kept their pages, and logged it.
    assert.equal(log.text, '');
    assert.equal(memory.live.size, 0, 'every page was freed');
    assert.deepEqual(pci.device.attributeNames(), []);
    await pci.close();
  }
  return memory;
}
