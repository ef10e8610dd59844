/** System calls and mappings that a test can make fail. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { TestContext } from 'node:test';
import { SystemCallError } from 'dmapool/linux';
import { Libc } from '../../src/linux/libc.ts';
import type { DmaMapper } from '../../src/linux/vfio-container.ts';

export type Errno = 'ENOMEM' | 'EINVAL' | 'EPERM';

type LibcCall = 'mmap' | 'munmap' | 'memfdCreate' | 'addSeals' | 'fallocate' | 'ioctl' | 'eventfd' | 'pipe' | 'replace';

/** Counts the calls that may fail, and makes a chosen one fail. */
export class SystemFaults {
  #left = Infinity;
  #errno: Errno = 'ENOMEM';
  /** The call that failed, or null if none did yet. */
  failed: string | null = null;

  /** Makes the `k`-th call from now on fail, k >= 1. */
  fail(k: number, errno: Errno): void {
    this.#left = k;
    this.#errno = errno;
    this.failed = null;
  }

  /** Called at each place that may fail. */
  step(call: string): void {
    if (--this.#left !== 0) return;
    this.failed = call;
    throw new SystemCallError(call, constants.errno[this.#errno], 'injected failure');
  }

  /** Injects failures into calls of the C library, until the end of the test. */
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

/** An IOMMU with the kernel's rules: mappings do not overlap, and each is unmapped with the range that was mapped. */
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

/** The number of open files of this process, and of its mappings of dmapool memory or of a device. */
export function footprint(): { files: number; mappings: number } {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const ours = lines.filter((line) => /memfd:dmapool|vfio|hugepages/.test(line));
  return { files: readdirSync('/proc/self/fd').length, mappings: ours.length };
}
