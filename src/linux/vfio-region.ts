/**
 * Access to a region of a device's registers: mapped where possible, else through the device's file.
 *
 * A register must be read or written in one access of its own width. Typed arrays do this; a `DataView` may access byte
 * by byte. V8 neither omits nor merges typed array accesses across calls. A write to memory must also be visible before
 * a later register write. x86 guarantees this order. Other architectures need a barrier, which JavaScript lacks. There
 * registers are accessed through the kernel, which has the barrier.
 */
import { readSync, writeSync } from 'node:fs';
import { roundUp } from '../arguments.ts';
import { libc, MAX_VIEW } from './libc.ts';
import { MappedMemory } from './mapped-memory.ts';
import type { RegionInfo } from './vfio-abi.ts';

/** Unit of reserved address space in bytes. */
const GRANULE = 65_536;

interface Area {
  readonly from: number;
  readonly end: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly u64: BigUint64Array;
}

export class VfioRegion {
  readonly #fd: number;
  readonly #offset: number;
  readonly #areas: Area[] = [];
  readonly #mappings: MappedMemory[] = [];
  readonly #bytes = Buffer.alloc(8);

  /** @param fd The device's file; the caller closes it. @param map False accesses everything through the file. */
  constructor(fd: number, info: RegionInfo, map: boolean = process.arch === 'x64') {
    this.#fd = fd;
    this.#offset = info.offset;
    try {
      for (const { offset, size } of map ? info.mappable : []) this.#map(offset, Math.min(size, MAX_VIEW));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #map(from: number, size: number): void {
    const bytes = roundUp(size, libc().pageSize());
    const memory = new MappedMemory(roundUp(bytes, GRANULE));
    this.#mappings.push(memory);
    const buffer = memory.open(0, bytes, { fd: this.#fd, offset: this.#offset + from });
    const whole = Math.floor(size / 8);
    this.#areas.push({
      from,
      end: from + size,
      u8: new Uint8Array(buffer, 0, size),
      u16: new Uint16Array(buffer, 0, Math.floor(size / 2)),
      u32: new Uint32Array(buffer, 0, Math.floor(size / 4)),
      u64: new BigUint64Array(buffer, 0, whole),
    });
  }

  read(offset: number, width: 8 | 16 | 32): number {
    const area = this.#areaOf(offset, width);
    if (area === undefined) return this.#readFile(offset, width >> 3).readUIntLE(0, width >> 3);
    const at = offset - area.from;
    if (width === 32) return area.u32[at >>> 2]!;
    return width === 16 ? area.u16[at >>> 1]! : area.u8[at]!;
  }

  read64(offset: number): bigint {
    const area = this.#areaOf(offset, 64);
    if (area === undefined) return this.#readFile(offset, 8).readBigUInt64LE(0);
    return area.u64[(offset - area.from) / 8]!;
  }

  write(offset: number, width: 8 | 16 | 32, value: number): void {
    const area = this.#areaOf(offset, width);
    if (area === undefined) {
      this.#bytes.writeUIntLE(value, 0, width >> 3);
      this.#writeFile(offset, width >> 3);
      return;
    }
    const at = offset - area.from;
    if (width === 32) area.u32[at >>> 2] = value;
    else if (width === 16) area.u16[at >>> 1] = value;
    else area.u8[at] = value;
  }

  write64(offset: number, value: bigint): void {
    const area = this.#areaOf(offset, 64);
    if (area === undefined) {
      this.#bytes.writeBigUInt64LE(value, 0);
      this.#writeFile(offset, 8);
    } else {
      area.u64[(offset - area.from) / 8] = value;
    }
  }

  /** Unmaps the registers. Existing views then read zeros. */
  close(): void {
    this.#areas.length = 0;
    for (const memory of this.#mappings) memory.close();
  }

  #areaOf(offset: number, width: number): Area | undefined {
    for (const area of this.#areas) {
      if (offset >= area.from && offset + (width >> 3) <= area.end) return area;
    }
    return undefined;
  }

  #readFile(offset: number, length: number): Buffer {
    readSync(this.#fd, this.#bytes, 0, length, this.#offset + offset);
    return this.#bytes;
  }

  #writeFile(offset: number, length: number): void {
    writeSync(this.#fd, this.#bytes, 0, length, this.#offset + offset);
  }
}
