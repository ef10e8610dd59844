/**
 * Detects stray writes: writes of a device to RAM outside allocations.
 *
 *     page      never allocated      allocated            freed, and page 0            written by machine.writeMemory
 *     holds     zeros                data                 a pattern                    data
 *     checked   yes                  no                   yes                          no
 */
import { hex } from '../errors.ts';
import type { DeviceLog } from '../device/log.ts';

/** A stray write: RAM outside allocations was written. */
export interface QemuStrayWrite {
  /** Physical address of the first byte that differs. */
  readonly address: number;
  /** Bytes from the first to the last difference. Differences on adjacent pages are merged. */
  readonly size: number;
}

/** The RAM to watch. */
export interface WatchedRam {
  readonly buffer: ArrayBuffer;
  /** Checked parts, as offsets in the buffer, with their addresses. */
  readonly zones: readonly { readonly byteOffset: number; readonly dma: number; readonly size: number }[];
  /** Finds the next data of the sparse memory file, half-open; null if the rest is zeros. */
  readonly nextData: (offset: number) => { readonly begin: number; readonly end: number } | null;
}

const PAGE = 4096;
const PAGE_WORDS = PAGE / 4;
const PATTERN = 0xdb5a_a5bd;
/** Page states; 0: never allocated. */
const ALLOCATED = 1;
const FREED = 2;
const EXEMPT = 3;

export class MemoryWatch {
  readonly #ram: WatchedRam;
  readonly #log: DeviceLog;
  readonly #states: Uint8Array;
  readonly #words: Uint32Array;
  #closed = false;

  constructor(ram: WatchedRam, log: DeviceLog) {
    this.#ram = ram;
    this.#log = log;
    this.#words = new Uint32Array(ram.buffer);
    this.#states = new Uint8Array(ram.buffer.byteLength / PAGE);
    // Devices with an unset address write to page 0.
    this.returned(0, PAGE);
  }

  /** Checks memory at its allocation, before it is cleared. */
  taken(byteOffset: number, size: number): void {
    if (this.#closed) return;
    const found: QemuStrayWrite[] = [];
    this.#checkPages(byteOffset, byteOffset + size, found);
    this.#states.fill(ALLOCATED, byteOffset / PAGE, (byteOffset + size) / PAGE);
    this.#report(found);
  }

  /** Fills freed memory with the pattern. */
  returned(byteOffset: number, size: number): void {
    if (this.#closed) return;
    this.#words.fill(PATTERN, byteOffset / 4, (byteOffset + size) / 4);
    this.#states.fill(FREED, byteOffset / PAGE, (byteOffset + size) / PAGE);
  }

  /** Exempts memory that the program itself writes. */
  exempt(address: number, size: number): void {
    for (const zone of [...this.#ram.zones, { byteOffset: 0, dma: 0, size: PAGE }]) {
      const from = Math.max(address, zone.dma);
      const to = Math.min(address + size, zone.dma + zone.size);
      for (let at = from; at < to; at = (Math.floor(at / PAGE) + 1) * PAGE) {
        const page = Math.floor((zone.byteOffset + at - zone.dma) / PAGE);
        if (this.#states[page] !== ALLOCATED) this.#states[page] = EXEMPT;
      }
    }
  }

  /** Checks all memory. Reports and returns each difference once. */
  check(): QemuStrayWrite[] {
    const found: QemuStrayWrite[] = [];
    if (this.#closed) return found;
    let data = this.#ram.nextData(0);
    while (data !== null) {
      this.#checkPages(data.begin, data.end, found);
      data = this.#ram.nextData(data.end);
    }
    this.#report(found);
    return found;
  }

  /** Ends all checks before the memory is unmapped. */
  close(): void {
    this.#closed = true;
  }

  #report(found: readonly QemuStrayWrite[]): void {
    for (const { address, size } of found) {
      this.#log.error(
        `QEMU: stray write to RAM outside allocations, ${String(size)} bytes at ${hex(address)}: a device has a wrong ` +
          'address, its memory was freed too early, or a view outlived its memory',
      );
    }
  }

  #checkPages(begin: number, end: number, found: QemuStrayWrite[]): void {
    for (let at = begin - (begin % PAGE); at < end; at += PAGE) {
      const state = this.#states[at / PAGE];
      if (state === ALLOCATED || state === EXEMPT) continue;
      const words = this.#words;
      const wanted = state === FREED ? PATTERN : 0;
      const page = at / 4;
      let first = 0;
      // Ten times as fast as findIndex.
      while (first < PAGE_WORDS && words[page + first] === wanted) first++;
      if (first === PAGE_WORDS) continue;
      const address = this.#addressOf(at);
      if (address === -1) continue;
      let last = PAGE_WORDS - 1;
      while (words[page + last] === wanted) last--;
      // Reset the page, so that each difference is reported once.
      this.returned(at, PAGE);
      const from = address + first * 4;
      const size = (last - first + 1) * 4;
      const earlier = found.at(-1);
      if (earlier !== undefined && earlier.address + earlier.size === from) {
        found[found.length - 1] = { address: earlier.address, size: earlier.size + size };
      } else {
        found.push({ address: from, size });
      }
    }
  }

  /** Returns -1 for unchecked memory: video memory and firmware below 1 MiB. */
  #addressOf(offset: number): number {
    if (offset === 0) return 0;
    const zone = this.#ram.zones.find(({ byteOffset, size }) => offset >= byteOffset && offset < byteOffset + size);
    return zone === undefined ? -1 : zone.dma + (offset - zone.byteOffset);
  }
}
