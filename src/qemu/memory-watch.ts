/**
 * Watches RAM outside allocations: what a device writes there went astray, and nothing else would tell.
 *
 *     page      never handed out     handed out           given back, and page 0       written by machine.writeMemory
 *     holds     zeros                what its owner says  a pattern                     what the program says
 *     checked   yes                  no                   yes                           no
 */
import { hex } from '../errors.ts';
import type { DeviceLog } from '../device/log.ts';

/** Memory outside allocations that was written. */
export interface QemuStrayWrite {
  /** Physical address of the first byte that differs. */
  readonly address: number;
  /** Bytes from there to the last one that differs, without a gap of a page. */
  readonly size: number;
}

/** What is needed of the RAM. */
export interface WatchedRam {
  readonly buffer: ArrayBuffer;
  /** The parts that are checked, as offsets in the buffer, with their addresses. */
  readonly zones: readonly { readonly byteOffset: number; readonly dma: number; readonly size: number }[];
  /** The next data in the memory file from an offset on, as first and last offset; null: none. The rest is holes: zeros. */
  readonly nextData: (offset: number) => { readonly begin: number; readonly end: number } | null;
}

const PAGE = 4096;
const PAGE_WORDS = PAGE / 4;
const PATTERN = 0xdb5a_a5bd;
/** States of a page; 0: never handed out. */
const OUT = 1;
const BACK = 2;
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
    // The address that a device has when it was given none.
    this.returned(0, PAGE);
  }

  /** Memory is handed out: checked before it is cleared. */
  taken(byteOffset: number, size: number): void {
    if (this.#closed) return;
    const found: QemuStrayWrite[] = [];
    this.#checkPages(byteOffset, byteOffset + size, found);
    this.#states.fill(OUT, byteOffset / PAGE, (byteOffset + size) / PAGE);
    this.#report(found);
  }

  /** Memory is given back: it gets the pattern. */
  returned(byteOffset: number, size: number): void {
    if (this.#closed) return;
    this.#words.fill(PATTERN, byteOffset / 4, (byteOffset + size) / 4);
    this.#states.fill(BACK, byteOffset / PAGE, (byteOffset + size) / PAGE);
  }

  /** The program writes there itself. */
  exempt(address: number, size: number): void {
    for (const zone of [...this.#ram.zones, { byteOffset: 0, dma: 0, size: PAGE }]) {
      const from = Math.max(address, zone.dma);
      const to = Math.min(address + size, zone.dma + zone.size);
      for (let at = from; at < to; at = (Math.floor(at / PAGE) + 1) * PAGE) {
        const page = Math.floor((zone.byteOffset + at - zone.dma) / PAGE);
        if (this.#states[page] !== OUT) this.#states[page] = EXEMPT;
      }
    }
  }

  /** Checks all of it; each difference is reported and returned once. */
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

  /** The memory is taken away. */
  close(): void {
    this.#closed = true;
  }

  #report(found: readonly QemuStrayWrite[]): void {
    for (const { address, size } of found) {
      this.#log.error(
        `QEMU: RAM outside allocations was written, ${String(size)} bytes at ${hex(address)}: a device was given a wrong ` +
          'address or memory was released under it, or a view outlived its memory',
      );
    }
  }

  #checkPages(begin: number, end: number, found: QemuStrayWrite[]): void {
    for (let at = begin - (begin % PAGE); at < end; at += PAGE) {
      const state = this.#states[at / PAGE];
      if (state === OUT || state === EXEMPT) continue;
      const words = this.#words;
      const wanted = state === BACK ? PATTERN : 0;
      const page = at / 4;
      let first = 0;
      // A loop by hand: ten times as fast as findIndex.
      while (first < PAGE_WORDS && words[page + first] === wanted) first++;
      if (first === PAGE_WORDS) continue;
      const address = this.#addressOf(at);
      if (address === -1) continue;
      let last = PAGE_WORDS - 1;
      while (words[page + last] === wanted) last--;
      // Its next difference is another one.
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

  /** -1 where nothing is checked: the firmware's and video memory below 1 MiB. */
  #addressOf(offset: number): number {
    if (offset === 0) return 0;
    const zone = this.#ram.zones.find(({ byteOffset, size }) => offset >= byteOffset && offset < byteOffset + size);
    return zone === undefined ? -1 : zone.dma + (offset - zone.byteOffset);
  }
}
