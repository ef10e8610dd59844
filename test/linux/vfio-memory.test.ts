/**
 * Memory for a device behind an IOMMU, with a stand-in for the IOMMU that can fail. vfio-guest.ts uses the kernel's.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { describe, it } from 'node:test';
import { type CoherentMemory, Device, DmaError, DmaPool } from 'dmapool';
import { SystemCallError } from 'dmapool/linux';
import type { DmaMapper } from '../../src/linux/vfio-container.ts';
import { VfioMemory, type IommuDomain } from '../../src/linux/vfio-memory.ts';
import { throwsCode } from '../support/errors.ts';
import { runStaleViews, seedOf } from './stale-views.ts';
import { footprint, StrictMapper, SystemFaults } from './system-faults.ts';
import { MIB } from '../support/sizes.ts';

void describe('a view of VFIO memory', () => {
  for (const strict of [false, true]) {
    // stale-views.test.ts runs as many on memory of real devices.
    void it(`never crashes the process, in 5,000 orders of close, read, write and alloc${strict ? ' (strict)' : ''}`, (t) => {
      const seed = seedOf();
      t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
      const mapper = { map: () => undefined, unmap: () => undefined };
      const domain = { address: '0000:00:10.0', mapper, iovaRanges: undefined, pageSize: 4096 };
      const open = (): VfioMemory => new VfioMemory(domain, { size: 131_072, hugepages: false, strict });
      const stale = runStaleViews({ orders: 5000, seed, open, sizes: [1, 4096, 20_000, 65_536], dmaMask: 2 ** 39 - 1 });
      assert.ok(stale.length > 5000);
    });
  }
});

const LIMIT = 8 * MIB;
const PIECE = 262_144;
/** Exactly as many addresses as there is memory: a lost address would show. */
const IOVAS = [{ first: 16 * MIB, last: 16 * MIB + LIMIT - 1 }];
const ANY_DEVICE = { name: 'd', dmaMask: 2 ** 39 - 1 };

/** Runs a call; after an injected failure it runs the call once more, which must succeed. */
function persist<T>(faults: SystemFaults, action: () => T): T {
  try {
    return action();
  } catch (error) {
    assert.ok(faults.failed !== null, String(error));
    assert.ok(error instanceof DmaError, `${faults.failed}: ${String(error)}`);
    return action();
  }
}

/** Allocates all memory, piece by piece. */
function exhaust(faults: SystemFaults, memory: VfioMemory): CoherentMemory[] {
  const all: CoherentMemory[] = [];
  for (;;) {
    const take = (): CoherentMemory | null => memory.allocCoherent({ device: ANY_DEVICE, size: PIECE, node: -1 });
    const next = persist(faults, take) ?? take();
    if (next === null) return all;
    all.push(next);
  }
}

/** A driver's use of a source: pools grow and are destroyed, and the source is closed. Returns the views. */
function live(faults: SystemFaults, mapper: StrictMapper, strict: boolean): Uint8Array[] {
  const domain = { address: '0000:00:10.0', mapper, iovaRanges: IOVAS, pageSize: 4096 };
  const memory = persist(faults, () => new VfioMemory(domain, { size: LIMIT, hugepages: false, strict }));
  const device = new Device({ name: '0000:00:10.0', dmaMask: ANY_DEVICE.dmaMask, memory });
  const views: Uint8Array[] = [];
  for (let round = 0; round < 2; round++) {
    const pool = DmaPool.create('p', device, { size: MIB });
    const blocks = Array.from({ length: 3 }, () => persist(faults, () => pool.alloc()));
    for (const { bytes } of blocks) views.push(bytes.fill(round + 1));
    for (const block of blocks) pool.free(block);
    // The pool reports the memory that it cannot free, and is destroyed nevertheless.
    persist(faults, () => {
      pool.destroy();
    });
  }
  // Only memory that the device may still access is lost.
  const all = exhaust(faults, memory);
  const kept = faults.failed === 'VFIO_IOMMU_UNMAP_DMA' ? MIB : 0;
  assert.equal(all.length * PIECE, LIMIT - kept, `after ${String(faults.failed)}`);
  for (const { buffer, byteOffset } of all) views.push(new Uint8Array(buffer, byteOffset, PIECE).fill(9));
  for (const one of all) {
    persist(faults, () => {
      memory.freeCoherent(one);
    });
  }
  persist(faults, () => {
    memory.close();
  });
  memory.close();
  assert.equal(memory.bytesMapped, 0);
  return views;
}

void describe('VFIO memory when the system refuses a call', () => {
  for (const strict of [false, true]) {
    for (const errno of ['ENOMEM', 'EINVAL', 'EPERM'] as const) {
      void it(`throws a typed error and loses nothing when the k-th call fails, for each k (${errno}${strict ? ', strict' : ''})`, (t) => {
        const faults = new SystemFaults();
        faults.inLibc(t, ['mmap', 'munmap', 'memfdCreate', 'addSeals']);
        const before = footprint();
        const failed = new Set<string>();
        for (let k = 1; ; k++) {
          faults.fail(k, errno);
          const mapper = new StrictMapper(faults);
          const views = live(faults, mapper, strict);
          assert.equal(mapper.mappings.size, 0, `${String(faults.failed)}: the device has no mapping`);
          assert.deepEqual(footprint(), before, `${String(faults.failed)}: the process has no mapping`);
          assert.ok(
            views.every((view) => view[0] === 0 && view.at(-1) === 0),
            'stale views read zeros',
          );
          if (faults.failed === null) break;
          failed.add(faults.failed);
        }
        t.diagnostic([...failed].join(', '));
        for (const call of ['memfdCreate', 'mmap', 'VFIO_IOMMU_MAP_DMA', 'VFIO_IOMMU_UNMAP_DMA']) {
          assert.ok(failed.has(call), call);
        }
      });
    }
  }
});

void describe('VFIO memory', () => {
  const domain = (mapper: DmaMapper): IommuDomain => ({
    address: '0000:00:10.0',
    mapper,
    iovaRanges: [{ first: 2 ** 32, last: 2 ** 45 - 1 }],
    pageSize: 4096,
  });
  const anything: DmaMapper = { map: () => undefined, unmap: () => undefined };

  void it('can be allocated completely, even if only small mappings are possible', () => {
    const map = (_address: number, _iova: number, size: number): void => {
      if (size > 2 * MIB) throw new SystemCallError('VFIO_IOMMU_MAP_DMA', constants.errno.ENOMEM, 'too large');
    };
    const memory = new VfioMemory(domain({ map, unmap: () => undefined }), { size: 64 * MIB, hugepages: false });
    const all: CoherentMemory[] = [];
    for (;;) {
      const next = memory.allocCoherent({ device: ANY_DEVICE, size: MIB, node: -1 });
      if (next === null) break;
      new Uint8Array(next.buffer, next.byteOffset, 8).fill(all.length + 1);
      all.push(next);
    }
    assert.equal(all.length, 64);
    assert.equal(new Set(all.map(({ dma }) => dma)).size, 64);
    for (const [i, { buffer, byteOffset }] of all.entries()) assert.equal(new Uint8Array(buffer)[byteOffset], i + 1);
    for (const memoryOfAll of all) memory.freeCoherent(memoryOfAll);
    memory.close();
  });

  void it('reports a missing NUMA node at once', () => {
    const before = footprint();
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new VfioMemory(domain(anything), { node: 63, hugepages: false }));
    assert.deepEqual(footprint(), before);
  });

  void it('may be as large as its documentation says', () => {
    const before = footprint();
    const memory = new VfioMemory(domain(anything), { size: 2 ** 41 + 4096, hugepages: false });
    const device = { name: 'd', dmaMask: Number.MAX_SAFE_INTEGER };
    memory.freeCoherent(memory.allocCoherent({ device, size: MIB, node: -1 })!);
    memory.close();
    assert.deepEqual(footprint(), before);
  });
});
