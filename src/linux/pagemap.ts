/**
 * Translates addresses of this process to physical addresses (Documentation/admin-guide/mm/pagemap.rst).
 *
 *     entry of a page:   63 present   62 swapped   ...   54-0 frame number
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

/** Reads physical addresses. Close it after use. */
export class Pagemap {
  readonly #fd: number;
  readonly #pageSize: number = libc().pageSize();

  /** @param path Tests pass another file. @throws {@link HugepageError} `ERR_DMAPOOL_FRAMES_HIDDEN` */
  constructor(path: string = PAGEMAP) {
    try {
      this.#fd = openSync(path, 'r');
    } catch (error) {
      throw hidden(`${path} can't be opened`, error);
    }
  }

  /**
   * Translates an address of a page that was accessed before.
   *
   * @throws {@link HugepageError} `ERR_DMAPOOL_FRAMES_HIDDEN` when the kernel hides the frame, or no page is present.
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

/** Extracts and checks the frame number of an entry. */
export function frameOf(low: number, high: number, address: number): number {
  if (high < PRESENT || (high & SWAPPED) !== 0) throw hidden(`no page is present at address ${hex(address)}`);
  const frame = (high & HIGH_FRAME_BITS) * 2 ** 32 + low;
  // The kernel reports frame 0 to callers without CAP_SYS_ADMIN. No process owns the real frame 0.
  if (frame === 0) throw hidden(`${PAGEMAP} shows no frame numbers`);
  return frame;
}

function hidden(what: string, cause?: unknown): HugepageError {
  const message =
    `${what}: physical addresses need the capability CAP_SYS_ADMIN; run as root, ` +
    'or use VFIO, which needs no physical addresses';
  return new HugepageError('ERR_DMAPOOL_FRAMES_HIDDEN', message, cause === undefined ? undefined : { cause });
}
