/**
 * ACPI PCI hotplug on a PC (docs/specs/acpi_pci_hotplug in QEMU's documentation). The user requests an unplug, ACPI
 * tells the operating system which slots to empty, and the system ejects them.
 *
 *     QMP device_del --> QEMU marks the slot "down" --> the system selects the bus and writes the slot's bit: ejected
 *
 * A physically removed card does no more DMA. QEMU's models differ: the NVMe controller frees its queues while disk
 * requests are in flight, which sometimes crashes QEMU. Therefore bus mastering is disabled and the requests are
 * completed before the eject.
 */
import { PCI_COMMAND, PCI_CONFIG } from '../pci/registers.ts';
import type { MachineBus, PciLocation } from './bus.ts';
import { QemuError } from './error.ts';
import { isRecord } from './peer.ts';
import type { QmpClient } from './qmp.ts';

/** Register offsets from the hotplug base port. */
const DOWN = 4;
const EJECT = 8;
const SELECT = 16;
/** Upper bound of bus numbers in these machines. */
const MAX_BUSES = 32;
/** Milliseconds between checks for removal. */
const CHECK_INTERVAL = 250;

/** The machine's side of an unplug. */
export interface UnplugContext {
  readonly bus: MachineBus;
  readonly qmp: QmpClient;
  /** Waits until the disks have completed their requests. */
  readonly finishRequests: () => Promise<void>;
  readonly port: number;
  readonly timeout: number;
  readonly ended: AbortSignal;
  /** Called before the eject; `removed` settles when the device is removed, or the unplug has failed. */
  readonly onEject: (removed: Promise<void>) => void;
}

export class Unplugger {
  readonly #onRemoved: (id: string) => void;
  readonly #waiting = new Map<string, () => void>();

  /** @param onRemoved Called when a device is removed and its DMA has ended. */
  constructor(onRemoved: (id: string) => void) {
    this.#onRemoved = onRemoved;
  }

  /** Handles QEMU's DEVICE_DELETED event. */
  deleted(id: string): void {
    this.#onRemoved(id);
    this.#waiting.get(id)?.();
  }

  async unplug(id: string, where: PciLocation, context: UnplugContext): Promise<void> {
    const { bus, qmp, finishRequests, onEject } = context;
    await qmp.execute('device_del', { id });
    const removed = this.#untilRemoved(id, context);
    onEject(removed);
    let timer: NodeJS.Timeout | undefined;
    try {
      const command = await bus.readConfig(where, PCI_CONFIG.command, 16);
      await bus.writeConfig(where, PCI_CONFIG.command, 16, command & ~PCI_COMMAND.busMaster);
      await finishRequests();
      await eject(where.slot, context);
      // QEMU 7.2 sometimes leaks a reference to a device that had requests in flight: the device is unrealized and off
      // its bus, but never finalized, and no event comes. So the device tree is checked too.
      timer = setInterval(() => {
        void this.#check(id, where.slot, context).catch(() => undefined);
      }, CHECK_INTERVAL);
      // A device that stays plugged keeps working.
      await removed.catch(async (error: unknown) => {
        await bus.writeConfig(where, PCI_CONFIG.command, 16, command);
        throw error;
      });
    } finally {
      clearInterval(timer);
    }
  }

  /** Rejects when the device is not removed in time, or the machine has ended. */
  #untilRemoved(id: string, { timeout, ended }: UnplugContext): Promise<void> {
    let stop = (): void => undefined;
    const removed = new Promise<void>((resolve, reject) => {
      const onEnd = (): void => {
        reject(ended.reason as Error);
      };
      const timer = setTimeout(() => {
        reject(new QemuError('ERR_DMAPOOL_QEMU_TIMEOUT', `${id} was not removed within ${String(timeout)} ms`));
      }, timeout);
      ended.addEventListener('abort', onEnd);
      this.#waiting.set(id, resolve);
      stop = () => {
        clearTimeout(timer);
        ended.removeEventListener('abort', onEnd);
        this.#waiting.delete(id);
      };
    }).finally(stop);
    // It may reject before unplug() awaits it.
    removed.catch(() => undefined);
    return removed;
  }

  /** Detects a removal without an event. Ejects again otherwise: the slot may not have been marked before. */
  async #check(id: string, slot: number, context: UnplugContext): Promise<void> {
    const names = await context.qmp.query('qom-list', { path: '/machine/peripheral' }, namesOf);
    if (names.includes(id)) await eject(slot, context);
    else if (this.#waiting.has(id)) this.deleted(id);
  }
}

/** The names in a reply to `qom-list`. */
function namesOf(reply: unknown): string[] | undefined {
  if (!Array.isArray(reply)) return undefined;
  const names = reply.map((entry: unknown) => (isRecord(entry) ? entry['name'] : undefined));
  return names.every((name) => typeof name === 'string') ? names : undefined;
}

async function eject(slot: number, { bus, port }: UnplugContext): Promise<void> {
  const selected = await findBus(bus, port, slot);
  if (selected === -1) return;
  bus.writePort(port + SELECT, 32, selected);
  bus.writePort(port + EJECT, 32, 2 ** slot);
}

/** Number of the bus on which the slot is marked "down"; -1 if there is none. */
async function findBus(bus: MachineBus, port: number, slot: number): Promise<number> {
  for (let selected = 0; selected < MAX_BUSES; selected++) {
    bus.writePort(port + SELECT, 32, selected);
    const down = await bus.readPort(port + DOWN, 32);
    if ((down & (2 ** slot)) !== 0) return selected;
  }
  return -1;
}
