/**
 * Hotplug on a PC (docs/specs/acpi_pci_hotplug in QEMU's documentation): the user presses the button, the system is told
 * by ACPI which slots are to be emptied, and ejects them.
 *
 *     QMP device_del --> QEMU marks the slot as going down --> the system selects the bus, writes the slot's bit: ejected
 */
import type { MachineBus } from './bus.ts';
import { QemuError } from './error.ts';
import type { QmpClient } from './qmp.ts';

/** Ports, from the first one of hotplug on. */
const DOWN = 4;
const EJECT = 8;
const SELECT = 16;
/** Buses are numbered from 0 up; more than these no machine here has. */
const MAX_BUSES = 32;

/** What is needed to unplug. */
export interface UnplugContext {
  readonly bus: MachineBus;
  readonly qmp: QmpClient;
  readonly port: number;
  readonly timeout: number;
  readonly ended: AbortSignal;
  /** The device is being taken out, and accesses would reach nobody; the promise settles when it is out, or is not. */
  readonly onEject: (out: Promise<void>) => void;
}

export class Unplugger {
  readonly #onRemoved: (id: string) => void;
  readonly #waiting = new Map<string, () => void>();

  /** @param onRemoved Called when a device is out, its DMA too. */
  constructor(onRemoved: (id: string) => void) {
    this.#onRemoved = onRemoved;
  }

  /** QEMU told that a device is no more. */
  deleted(id: string): void {
    this.#onRemoved(id);
    this.#waiting.get(id)?.();
  }

  async unplug(id: string, slot: number, context: UnplugContext): Promise<void> {
    const { bus, qmp, port, timeout, ended, onEject } = context;
    await qmp.execute('device_del', { id });
    let timer: NodeJS.Timeout | undefined;
    let again: NodeJS.Timeout | undefined;
    let onEnd: (() => void) | undefined;
    const deleted = new Promise<void>((resolve, reject) => {
      this.#waiting.set(id, resolve);
      timer = setTimeout(() => {
        const message = `${id} was not out within ${String(timeout)} ms`;
        reject(new QemuError('ERR_DMAPOOL_QEMU_TIMEOUT', message));
      }, timeout);
      onEnd = () => {
        reject(ended.reason as Error);
      };
      ended.addEventListener('abort', onEnd);
    });
    // It may be rejected while the ports are still being read.
    deleted.catch(() => undefined);
    try {
      const selected = await findBus(bus, port, slot);
      if (selected !== -1) {
        bus.writePort(port + SELECT, 32, selected);
        bus.writePort(port + EJECT, 32, 2 ** slot);
        onEject(deleted);
      }
      // A device in the middle of its work may not be marked yet, or need telling again.
      again = setInterval(() => {
        void eject(bus, port, slot).catch(() => undefined);
      }, 250);
      await deleted;
    } finally {
      clearInterval(again);
      clearTimeout(timer);
      ended.removeEventListener('abort', onEnd!);
      this.#waiting.delete(id);
    }
  }
}

async function eject(bus: MachineBus, port: number, slot: number): Promise<void> {
  const selected = await findBus(bus, port, slot);
  if (selected === -1) return;
  bus.writePort(port + SELECT, 32, selected);
  bus.writePort(port + EJECT, 32, 2 ** slot);
}

/** The number of the bus on which the slot is going down; -1 if there is none (any more). */
async function findBus(bus: MachineBus, port: number, slot: number): Promise<number> {
  for (let selected = 0; selected < MAX_BUSES; selected++) {
    bus.writePort(port + SELECT, 32, selected);
    const down = await bus.readPort(port + DOWN, 32);
    if ((down & (2 ** slot)) !== 0) return selected;
  }
  return -1;
}
