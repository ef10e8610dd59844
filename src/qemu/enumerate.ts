/**
 * Enumerates the PCI functions of a machine and assigns their addresses, as firmware does.
 *
 *     bus 0: host bridge, 00:02.0, 00:03.0 bridge --> bus 1: 01:00.0 ...      depth first
 */
import type { BarInfo } from '../pci/backend.ts';
import { hex } from '../errors.ts';
import { PciError } from '../pci/error.ts';
import { NO_VENDOR, PCI_BARS, PCI_COMMAND, PCI_CONFIG } from '../pci/registers.ts';
import type { MachineBus, PciLocation } from './bus.ts';

/** A BAR with its assigned address. */
export interface AssignedBar extends BarInfo {
  /** First port, or memory address. */
  readonly base: number;
}

/** An enumerated function. */
export interface FoundFunction {
  readonly where: PciLocation;
  /** `0000:00:04.0`. */
  readonly address: string;
  readonly vendorId: number;
  readonly deviceId: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly classCode: number;
  readonly bars: readonly AssignedBar[];
  /** 1 to 4 for INTA to INTD; 0 without an interrupt pin. */
  readonly pin: number;
  /** Slot and pin on bus 0 after routing through the bridges in between. */
  readonly root: { readonly slot: number; readonly pin: number };
}

/** RAM below 4 GiB ends at 3 GiB, and the I/O APIC is at 0xfec00000. */
const MEMORY_WINDOW = { base: 0xc000_0000, end: 0xfec0_0000 };
/** Above the ports of the old devices, below those of power management and hotplug (0xae00, 0xb000). */
const IO_WINDOW = { base: 0x1000, end: 0xa000 };
/** Alignment of a bridge's windows (PCI-to-PCI Bridge 1.2, 3.2.5). */
const BRIDGE_MEMORY = 0x10_0000;
const BRIDGE_IO = 0x1000;

/** PCI 3.0, 3.2.2.3.2: a bus number has 8 bits. */
const LAST_BUS = 255;
/** INTA to INTD; other values of the register are reserved (PCI 3.0, 6.2.4). */
const LAST_PIN = 4;

const HEADER_BRIDGE = 1;
const MULTIFUNCTION = 0x80;
const CLASS_BRIDGE = 0x06;
const CLASS_PCI_BRIDGE = 0x0604;
/** Registers of a bridge's header (PCI-to-PCI Bridge 1.2, 3.2). */
const PRIMARY_BUS = 0x18;
const IO_BASE = 0x1c;
const MEMORY_BASE = 0x20;
const PREFETCHABLE_BASE = 0x24;

/** Assigns ascending addresses. */
class Window {
  readonly #end: number;
  next: number;

  constructor(base: number, end: number) {
    this.next = base;
    this.#end = end;
  }

  /** Assigns `size` bytes, naturally aligned; -1 without room. */
  take(size: number): number {
    const base = Math.ceil(this.next / size) * size;
    if (base + size > this.#end) return -1;
    this.next = base + size;
    return base;
  }

  align(unit: number): number {
    this.next = Math.min(Math.ceil(this.next / unit) * unit, this.#end);
    return this.next;
  }
}

/** Enumerates all functions except bridges, in address order. Their decoding stays off. */
export async function enumerate(bus: MachineBus): Promise<FoundFunction[]> {
  return new Enumeration(bus).run();
}

class Enumeration {
  readonly #bus: MachineBus;
  readonly #memory = new Window(MEMORY_WINDOW.base, MEMORY_WINDOW.end);
  readonly #io = new Window(IO_WINDOW.base, IO_WINDOW.end);
  readonly #found: FoundFunction[] = [];
  #lastBus = 0;

  constructor(bus: MachineBus) {
    this.#bus = bus;
  }

  async run(): Promise<FoundFunction[]> {
    await this.#scan(0, (slot, pin) => ({ slot, pin }));
    return this.#found;
  }

  async #scan(bus: number, toRoot: (slot: number, pin: number) => { slot: number; pin: number }): Promise<void> {
    const heads = await Promise.all(
      Array.from({ length: 32 }, (_, slot) => this.#bus.readConfig({ bus, slot, fn: 0 }, PCI_CONFIG.vendorId, 32)),
    );
    for (const [slot, head] of heads.entries()) {
      if ((head & 0xffff) === NO_VENDOR) continue;
      const multi = (await this.#bus.readConfig({ bus, slot, fn: 0 }, PCI_CONFIG.headerType, 8)) & MULTIFUNCTION;
      for (let fn = 0; fn < (multi === 0 ? 1 : 8); fn++) {
        const where = { bus, slot, fn };
        const ids = await this.#bus.readConfig(where, PCI_CONFIG.vendorId, 32);
        if ((ids & 0xffff) !== NO_VENDOR) await this.#add(where, ids, toRoot);
      }
    }
  }

  async #add(
    where: PciLocation,
    ids: number,
    toRoot: (slot: number, pin: number) => { slot: number; pin: number },
  ): Promise<void> {
    const classCode = (await this.#bus.readConfig(where, PCI_CONFIG.revision, 32)) >>> 8;
    const header = (await this.#bus.readConfig(where, PCI_CONFIG.headerType, 8)) & 0x7f;
    if (header === HEADER_BRIDGE && classCode >>> 8 === CLASS_PCI_BRIDGE) {
      await this.#assignBars(where, 2);
      await this.#descend(where, toRoot);
      return;
    }
    if (header !== 0 || classCode >>> 16 === CLASS_BRIDGE) return;
    const bars = await this.#assignBars(where, PCI_BARS);
    const value = await this.#bus.readConfig(where, PCI_CONFIG.interruptPin, 8);
    const pin = value > LAST_PIN ? 0 : value;
    this.#found.push({
      where,
      address: addressOf(where),
      vendorId: ids & 0xffff,
      deviceId: ids >>> 16,
      classCode,
      bars,
      pin,
      root: toRoot(where.slot, Math.max(pin, 1)),
    });
  }

  /** Numbers the bus behind a bridge, scans it, and sets the bridge's windows. */
  async #descend(
    where: PciLocation,
    toRoot: (slot: number, pin: number) => { slot: number; pin: number },
  ): Promise<void> {
    if (this.#lastBus === LAST_BUS) {
      throw new PciError('ERR_DMAPOOL_PCI_UNSUPPORTED', addressOf(where), 'there are more than 256 buses');
    }
    const secondary = ++this.#lastBus;
    // Route all higher bus numbers here until the scan has counted the buses.
    await this.#bus.writeConfig(where, PRIMARY_BUS, 32, where.bus | (secondary << 8) | (0xff << 16));
    const memory = this.#memory.align(BRIDGE_MEMORY);
    const io = this.#io.align(BRIDGE_IO);
    // PCI-to-PCI Bridge 1.2, 9.1: pins rotate by the device number.
    await this.#scan(secondary, (slot, pin) => toRoot(where.slot, ((pin - 1 + slot) % 4) + 1));
    const memoryEnd = this.#memory.align(BRIDGE_MEMORY) - 1;
    const ioEnd = this.#io.align(BRIDGE_IO) - 1;
    await this.#bus.writeConfig(where, PRIMARY_BUS, 32, where.bus | (secondary << 8) | (this.#lastBus << 16));
    // A window is closed if its end is below its base (3.2.5.6, 3.2.5.8).
    await this.#bus.writeConfig(where, MEMORY_BASE, 32, ((memory >>> 16) | (memoryEnd & 0xfff0_0000)) >>> 0);
    await this.#bus.writeConfig(where, PREFETCHABLE_BASE, 32, 0x0000_fff0);
    await this.#bus.writeConfig(where, IO_BASE, 16, ((io >>> 8) & 0xf0) | (ioEnd & 0xf000));
    await this.#bus.writeConfig(
      where,
      PCI_CONFIG.command,
      16,
      PCI_COMMAND.io | PCI_COMMAND.memory | PCI_COMMAND.busMaster,
    );
  }

  /** Sizes the BARs by writing all ones, and assigns addresses (PCI 3.0, 6.2.5.1). */
  async #assignBars(where: PciLocation, count: number): Promise<AssignedBar[]> {
    const bars: AssignedBar[] = [];
    await this.#bus.writeConfig(where, PCI_CONFIG.command, 16, 0);
    for (let index = 0; index < count; index++) {
      const offset = PCI_CONFIG.bar0 + index * 4;
      const low = await this.#probe(where, offset);
      if (low === 0) continue;
      const io = (low & 1) !== 0;
      const is64 = !io && (low & 6) === 4;
      const high = is64 ? await this.#probe(where, offset + 4) : 0xffff_ffff;
      // The upper half of an I/O BAR may be hardwired to zero.
      const mask = io ? (low & ~3) | 0xffff_0000 : low & ~0xf;
      const size = mask === 0 ? 2 ** 32 * (-high >>> 0) : -mask >>> 0;
      // PCI 3.0, 6.2.5.1: the size is a power of two; a 64-bit BAR takes two registers.
      if (!Number.isInteger(Math.log2(size)) || (is64 && index + 1 === count)) {
        const message = `BAR ${String(index)} is invalid: it reads ${hex(low)} after all ones were written`;
        throw new PciError('ERR_DMAPOOL_PCI_PROTOCOL', addressOf(where), message);
      }
      const base = (io ? this.#io : this.#memory).take(size);
      if (base === -1) {
        const message = `no address space for BAR ${String(index)} (${String(size)} bytes); use fewer or smaller devices`;
        throw new PciError('ERR_DMAPOOL_PCI_UNSUPPORTED', addressOf(where), message);
      }
      await this.#bus.writeConfig(where, offset, 32, base);
      if (is64) await this.#bus.writeConfig(where, offset + 4, 32, 0);
      bars.push({ index, kind: io ? 'io' : 'memory', size, prefetchable: !io && (low & 8) !== 0, is64, base });
      if (is64) index++;
    }
    return bars;
  }

  async #probe(where: PciLocation, offset: number): Promise<number> {
    await this.#bus.writeConfig(where, offset, 32, 0xffff_ffff);
    return this.#bus.readConfig(where, offset, 32);
  }
}

function addressOf({ bus, slot, fn }: PciLocation): string {
  const two = (value: number): string => value.toString(16).padStart(2, '0');
  return `0000:${two(bus)}:${two(slot)}.${String(fn)}`;
}
