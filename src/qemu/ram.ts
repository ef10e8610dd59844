/**
 * The machine's RAM: a memory file that QEMU and this process map.
 *
 *     offset in the file   0 ............. low | low ............ size
 *     address              0 ............. low | 4 GiB .. 4 GiB + high
 */
import { closeSync } from 'node:fs';
import { ZonedMemory } from '../memory/zoned-memory.ts';
import { MappedMemory } from '../linux/mapped-memory.ts';
import type { DeviceLog } from '../device/log.ts';
import { libc } from '../linux/libc.ts';
import { createMemoryFile } from '../linux/memfd.ts';
import { MemoryWatch } from './memory-watch.ts';
import { MIB } from './options.ts';

const PAGE = 4096;
/** Conventional memory ends where video memory and firmware begin. Its last KiB belong to the BIOS. */
const CONVENTIONAL_END = 0x9f000;
const FOUR_GIB = 2 ** 32;

export class MachineRam {
  readonly #mapped: MappedMemory;
  /** Coherent memory for the devices. */
  readonly source: ZonedMemory;
  /** Detects stray writes outside allocations. */
  readonly watch: MemoryWatch;
  /** Descriptor of the memory file; -1 after close. */
  #fd: number;

  /** @throws `DmaDependencyError` without koffi. @throws `SystemCallError` */
  constructor(name: string, size: number, high: number, log: DeviceLog) {
    const low = size - high;
    this.#mapped = new MappedMemory(size);
    this.#fd = -1;
    let buffer: ArrayBuffer;
    try {
      this.#fd = createMemoryFile(name, size);
      buffer = this.#mapped.open(0, size, { fd: this.#fd, offset: 0 });
    } catch (error) {
      this.close();
      throw error;
    }
    const zone = (dma: number, end: number, byteOffset: number): { dma: number; size: number; byteOffset: number } => ({
      dma,
      size: end - dma,
      byteOffset,
    });
    const zones = [
      // Address 0 is never used: many devices take it as "none".
      zone(PAGE, CONVENTIONAL_END, PAGE),
      zone(MIB, low, MIB),
      ...(high === 0 ? [] : [zone(FOUR_GIB, FOUR_GIB + high, low)]),
    ];
    this.watch = new MemoryWatch({ buffer, zones, nextData: (offset) => libc().nextData(this.#fd, offset) }, log);
    this.source = new ZonedMemory({
      name: 'qemu',
      pageSize: PAGE,
      zones: zones.map((where) => ({ ...where, buffer })),
      watch: this.watch,
      shareBuffer: (part) => this.#mapped.share(part, name),
    });
  }

  /** Descriptor of the memory file. */
  get fd(): number {
    return this.#fd;
  }

  /** Unmaps the memory. Existing views then read zeros. */
  close(): void {
    this.watch?.close();
    if (this.#fd !== -1) closeSync(this.#fd);
    this.#fd = -1;
    this.source?.close();
    this.#mapped.close();
  }
}
