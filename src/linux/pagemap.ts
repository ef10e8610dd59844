/**
 * Physical addresses of this process' memory (Documentation/admin-guide/mm/pagemap.rst).
 *
 *     an entry, one for each page:   63 present   62 swapped   ...   54-0 frame number
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { hex } from '../errors.ts';
import { HugepageError } from './error.ts';
import { libc } from './libc.ts';

const PAGEMAP = '/proc/self/pagemap';
const ENTRY_BYTES = 8;
const PRESENT = 2 ** 31;
const SWAPPED = 2 ** 30;
const HIGH_FRAME_BITS = 0x7f_ffff;

/** Reads physical addresses; to be closed. */
export class Pagemap {
  readonly #fd: number;
  readonly #pageSize: number = libc().pageSize();

  /** @param path Replaced in tests. @throws {@link HugepageError} `ERR_DMAPOOL_FRAMES_HIDDEN` */
  constructor(path: string = PAGEMAP) {
    try {
      this.#fd = openSync(path, 'r');
    } catch (error) {
      throw hidden(`${path} can't be opened`, error);
    }
  }

  /**
   * The physical address of the page at an address of this process, which must have been touched.
   *
   * @throws {@link HugepageError} `ERR_DMAPOOL_FRAMES_HIDDEN` when the kernel does not tell, or no page is there.
   */
  physicalAddress(address: number): number {
    const entry = new DataView(new ArrayBuffer(ENTRY_BYTES));
    const read = readSync(this.#fd, entry, 0, ENTRY_BYTES, Math.floor(address / this.#pageSize) * ENTRY_BYTES);
    if (read !== ENTRY_BYTES) throw hidden(`${PAGEMAP} ends before address ${hex(address)}`);
    const frame = frameOf(entry.getUint32(0, true), entry.getUint32(4, true), address);
    return frame * this.#pageSize + (address % this.#pageSize);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** The frame number in an entry, checked. */
export function frameOf(low: number, high: number, address: number): number {
  if (high < PRESENT || (high & SWAPPED) !== 0) throw hidden(`no page is present at address ${hex(address)}`);
  const frame = (high & HIGH_FRAME_BITS) * 2 ** 32 + low;
  // Frame 0 is the processor's own; the kernel shows it to those who may not know.
  if (frame === 0) throw hidden(`${PAGEMAP} shows no frame numbers`);
  return frame;
}

function hidden(what: string, cause?: unknown): HugepageError {
  const message =
    `${what}: a driver on physical addresses needs the capability CAP_SYS_ADMIN; run it as root, ` +
    'or use VFIO, which needs no physical addresses';
  return new HugepageError('ERR_DMAPOOL_FRAMES_HIDDEN', message, cause === undefined ? undefined : { cause });
}
