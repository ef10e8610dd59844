/**
 * Hotplug on a PC (docs/specs/acpi_pci_hotplug in QEMU's documentation): the user presses the button, the system is told
 * by ACPI which slots are to be emptied, and ejects them.
 *
 *     QMP device_del --> QEMU marks the slot as going down --> the system selects the bus, writes the slot's bit: ejected
 *
 * A card that is pulled out does no DMA from that moment on, and takes no writes. QEMU's models are less strict: its NVMe
 * controller frees its queues while requests are still on their way to the disk, and the machine dies of it now and then.
 * So the device is cut off first, and what it had begun is finished, before it is ejected.
 */
import { PCI_COMMAND, PCI_CONFIG } from '../pci/registers.ts';
import type { MachineBus, PciLocation } from './bus.ts';
import { QemuError } from './error.ts';
import { isRecord } from './peer.ts';
import type { QmpClient } from './qmp.ts';

/** Ports, from the first one of hotplug on. */
const DOWN = 4;
const EJECT = 8;
const SELECT = 16;
/** Buses are numbered from 0 up; more than these no machine here has. */
const MAX_BUSES = 32;
/** Milliseconds until it is looked again where the device is. */
const AGAIN = 250;

/** What is needed to unplug. */
export interface UnplugContext {
  readonly bus: MachineBus;
  readonly qmp: QmpClient;
  /** Has the disks finish what they were asked for. */
  readonly finishRequests: () => Promise<void>;
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

  async unplug(id: string, where: PciLocation, context: UnplugContext): Promise<void> {
    const { bus, qmp, finishRequests, onEject } = context;
    await qmp.execute('device_del', { id });
    const out = this.#untilOut(id, context);
    onEject(out);
    let again: NodeJS.Timeout | undefined;
    try {
      const command = await bus.readConfig(where, PCI_CONFIG.command, 16);
      await bus.writeConfig(where, PCI_CONFIG.command, 16, command & ~PCI_COMMAND.busMaster);
      await finishRequests();
      await eject(where.slot, context);
      // QEMU 7.2 forgets a reference to a device that had work in hand now and then: it is unrealized, out of its bus and
      // of the tree, but never finalized, so that no event comes. What counts is that it is out.
      again = setInterval(() => {
        void this.#look(id, where.slot, context).catch(() => undefined);
      }, AGAIN);
      // A device that does not go, works on.
      await out.catch(async (error: unknown) => {
        await bus.writeConfig(where, PCI_CONFIG.command, 16, command);
        throw error;
      });
    } finally {
      clearInterval(again);
    }
  }

  /** Rejects when the device is not out in time, or the machine has ended. */
  #untilOut(id: string, { timeout, ended }: UnplugContext): Promise<void> {
    let stop = (): void => undefined;
    const out = new Promise<void>((resolve, reject) => {
      const onEnd = (): void => {
        reject(ended.reason as Error);
      };
      const timer = setTimeout(() => {
        reject(new QemuError('ERR_DMAPOOL_QEMU_TIMEOUT', `${id} was not out within ${String(timeout)} ms`));
      }, timeout);
      ended.addEventListener('abort', onEnd);
      this.#waiting.set(id, resolve);
      stop = () => {
        clearTimeout(timer);
        ended.removeEventListener('abort', onEnd);
        this.#waiting.delete(id);
      };
    }).finally(stop);
    // It may be rejected while the ports are still being read.
    out.catch(() => undefined);
    return out;
  }

  /** Whether the device is out without an event; if it is still in, its slot may not have been marked before. */
  async #look(id: string, slot: number, context: UnplugContext): Promise<void> {
    const names = await context.qmp.query('qom-list', { path: '/machine/peripheral' }, namesOf);
    if (names.includes(id)) await eject(slot, context);
    else if (this.#waiting.has(id)) this.deleted(id);
  }
}

/** The names in an answer to `qom-list`. */
function namesOf(answer: unknown): string[] | undefined {
  if (!Array.isArray(answer)) return undefined;
  const names = answer.map((entry: unknown) => (isRecord(entry) ? entry['name'] : undefined));
  return names.every((name) => typeof name === 'string') ? names : undefined;
}

async function eject(slot: number, { bus, port }: UnplugContext): Promise<void> {
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
