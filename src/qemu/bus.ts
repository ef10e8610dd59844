/** Access to ports, memory and PCI configuration space of a machine, as its CPU would. */
import type { QtestClient } from './qtest.ts';

/** Bus, device and function, as numbers. */
export interface PciLocation {
  readonly bus: number;
  readonly slot: number;
  readonly fn: number;
}

/** PCI 3.0, 3.2.2.3.2: configuration mechanism 1. */
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const ENABLE = 0x8000_0000;

const PORT_SUFFIX: Readonly<Record<8 | 16 | 32, string>> = { 8: 'b', 16: 'w', 32: 'l' };
const MEMORY_SUFFIX: Readonly<Record<8 | 16 | 32 | 64, string>> = { 8: 'b', 16: 'w', 32: 'l', 64: 'q' };

export class MachineBus {
  readonly #qtest: QtestClient;
  /** Base of memory-mapped configuration space (PCI Express 4.0, 7.2.2); null without it. */
  #ecam: number | null = null;

  constructor(qtest: QtestClient) {
    this.#qtest = qtest;
  }

  /** Accessible bytes of a configuration space. */
  get configSize(): 256 | 4096 {
    return this.#ecam === null ? 256 : 4096;
  }

  useEcam(base: number): void {
    this.#ecam = base;
  }

  async readPort(port: number, width: 8 | 16 | 32): Promise<number> {
    return Number(await this.#read(`in${PORT_SUFFIX[width]} ${at(port)}`, width));
  }

  writePort(port: number, width: 8 | 16 | 32, value: number): void {
    this.#qtest.post(`out${PORT_SUFFIX[width]} ${at(port)} ${at(value)}`);
  }

  async readMemory(address: number, width: 8 | 16 | 32): Promise<number> {
    return Number(await this.#read(`read${MEMORY_SUFFIX[width]} ${at(address)}`, width));
  }

  readMemory64(address: number): Promise<bigint> {
    return this.#read(`readq ${at(address)}`, 64);
  }

  writeMemory(address: number, width: 8 | 16 | 32, value: number): void {
    this.#qtest.post(`write${MEMORY_SUFFIX[width]} ${at(address)} ${at(value)}`);
  }

  writeMemory64(address: number, value: bigint): void {
    this.#qtest.post(`writeq ${at(address)} 0x${value.toString(16)}`);
  }

  /** Reads memory of any kind, by consecutive accesses. */
  readBytes(address: number, length: number): Promise<Uint8Array> {
    return this.#qtest.query(`b64read ${at(address)} ${at(length)}`, (reply) => {
      // Buffer skips invalid base64, so the length check detects it.
      const bytes = Buffer.from(reply, 'base64');
      return reply.length === 4 * Math.ceil(length / 3) && bytes.length === length ? new Uint8Array(bytes) : undefined;
    });
  }

  async writeBytes(address: number, bytes: Uint8Array): Promise<void> {
    await this.#qtest.call(`b64write ${at(address)} ${at(bytes.length)} ${Buffer.from(bytes).toString('base64')}`);
  }

  readConfig(where: PciLocation, offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#ecam !== null) return this.readMemory(this.#ecam + ecamOffset(where) + offset, width);
    this.#selectConfig(where, offset);
    return this.readPort(CONFIG_DATA + (offset & 3), width);
  }

  async writeConfig(where: PciLocation, offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    if (this.#ecam === null) {
      this.#selectConfig(where, offset);
      this.writePort(CONFIG_DATA + (offset & 3), width, value);
    } else {
      this.writeMemory(this.#ecam + ecamOffset(where) + offset, width, value);
    }
    await this.#qtest.flush();
  }

  flush(): Promise<void> {
    return this.#qtest.flush();
  }

  #read(command: string, width: 8 | 16 | 32 | 64): Promise<bigint> {
    return this.#qtest.query(command, (reply) => {
      const value = /^0x[0-9a-f]{1,16}$/.test(reply) ? BigInt(reply) : -1n;
      return value >= 0n && value < 1n << BigInt(width) ? value : undefined;
    });
  }

  #selectConfig({ bus, slot, fn }: PciLocation, offset: number): void {
    // The data access follows directly; no other code accesses these ports.
    this.writePort(CONFIG_ADDRESS, 32, ENABLE + bus * 0x1_0000 + slot * 0x800 + fn * 0x100 + (offset & 0xfc));
  }
}

function ecamOffset({ bus, slot, fn }: PciLocation): number {
  return bus * 0x10_0000 + slot * 0x8000 + fn * 0x1000;
}

function at(value: number): string {
  return `0x${value.toString(16)}`;
}
