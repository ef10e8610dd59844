/** Access to ports, memory and PCI configuration space of a machine, as its processor would have it. */
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
  /** Where configuration space lies in memory (PCI Express 4.0, 7.2.2); null: not at all. */
  #ecam: number | null = null;

  constructor(qtest: QtestClient) {
    this.#qtest = qtest;
  }

  /** Bytes of configuration space that can be reached. */
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

  /** Bytes of memory, of whatever kind, as one access after the other. */
  readBytes(address: number, length: number): Promise<Uint8Array> {
    return this.#qtest.query(`b64read ${at(address)} ${at(length)}`, (answer) => {
      // Buffer leaves out what is not base64, so that the length shows it.
      const bytes = Buffer.from(answer, 'base64');
      return answer.length === 4 * Math.ceil(length / 3) && bytes.length === length ? new Uint8Array(bytes) : undefined;
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
    return this.#qtest.query(command, (answer) => {
      const value = /^0x[0-9a-f]{1,16}$/.test(answer) ? BigInt(answer) : -1n;
      return value >= 0n && value < 1n << BigInt(width) ? value : undefined;
    });
  }

  #selectConfig({ bus, slot, fn }: PciLocation, offset: number): void {
    // What follows arrives right behind it: nobody else uses these ports.
    this.writePort(CONFIG_ADDRESS, 32, ENABLE + bus * 0x1_0000 + slot * 0x800 + fn * 0x100 + (offset & 0xfc));
  }
}

function ecamOffset({ bus, slot, fn }: PciLocation): number {
  return bus * 0x10_0000 + slot * 0x8000 + fn * 0x1000;
}

function at(value: number): string {
  return `0x${value.toString(16)}`;
}
