/** System calls and mappings that fail when a test says so. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { TestContext } from 'node:test';
import { SystemCallError } from 'dmapool/linux';
import { Libc } from '../../src/linux/libc.ts';
import type { DmaMapper } from '../../src/linux/vfio-container.ts';

export type Errno = 'ENOMEM' | 'EINVAL' | 'EPERM';

type LibcCall = 'mmap' | 'munmap' | 'memfdCreate' | 'addSeals' | 'fallocate' | 'ioctl' | 'eventfd';

/** Counts what may fail, and makes one of it fail: the next but so many. */
export class SystemFaults {
  #left = Infinity;
  #errno: Errno = 'ENOMEM';
  /** What failed, or null if nothing did yet. */
  failed: string | null = null;

  /** The `k`-th call from now on fails, from 1. */
  fail(k: number, errno: Errno): void {
    this.#left = k;
    this.#errno = errno;
    this.failed = null;
  }

  /** To be called where something may fail. */
  step(call: string): void {
    if (--this.#left !== 0) return;
    this.failed = call;
    throw new SystemCallError(call, constants.errno[this.#errno], 'made to fail');
  }

  /** Lets calls of the C library fail, until the end of the test. */
  inLibc(t: TestContext, names: readonly LibcCall[]): void {
    for (const name of names) {
      // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its object below
      const real = Libc.prototype[name] as (this: Libc, ...values: unknown[]) => unknown;
      const step = (): void => {
        this.step(name);
      };
      t.mock.method(Libc.prototype, name, function (this: Libc, ...values: unknown[]) {
        step();
        return real.apply(this, values);
      });
    }
  }
}

/** An IOMMU as the kernel's: what is mapped does not overlap, and is unmapped as it was mapped. */
export class StrictMapper implements DmaMapper {
  readonly mappings = new Map<number, { readonly address: number; readonly size: number }>();
  readonly #faults: SystemFaults;

  constructor(faults: SystemFaults) {
    this.#faults = faults;
  }

  map(address: number, iova: number, size: number): void {
    this.#faults.step('VFIO_IOMMU_MAP_DMA');
    for (const [other, { size: bytes }] of this.mappings) {
      assert.ok(iova + size <= other || other + bytes <= iova, 'mappings do not overlap');
    }
    this.mappings.set(iova, { address, size });
  }

  unmap(iova: number, size: number): void {
    this.#faults.step('VFIO_IOMMU_UNMAP_DMA');
    assert.equal(this.mappings.get(iova)?.size, size, 'unmapped as it was mapped');
    this.mappings.delete(iova);
  }
}

/** How many files this process has open, and how many of its mappings are of our memory or of a device. */
export function footprint(): { files: number; mappings: number } {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const ours = lines.filter((line) => /memfd:dmapool|vfio|hugepages/.test(line));
  return { files: readdirSync('/proc/self/fd').length, mappings: ours.length };
}
