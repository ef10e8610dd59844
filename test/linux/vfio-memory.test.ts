/** Memory for a device behind an IOMMU, with a stand-in for the IOMMU that can fail; with the kernel's in vfio-guest.ts. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { VfioMemory } from '../../src/linux/vfio-memory.ts';
import { runStaleViews, seedOf } from './stale-views.ts';

void describe('a view of VFIO memory', () => {
  for (const strict of [false, true]) {
    // More orders, on memory that devices have, are in vfio-guest.ts and hugetlb-guest.ts.
    void it(`never crashes the process, in 5,000 orders of close, read, write and alloc${strict ? ' (strict)' : ''}`, (t) => {
      const seed = seedOf();
      t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
      const mapper = { map: () => undefined, unmap: () => undefined };
      const home = { address: '0000:00:10.0', mapper, iovaRanges: undefined, pageSize: 4096 };
      const open = (): VfioMemory => new VfioMemory(home, { size: 131_072, hugepages: false, strict });
      const stale = runStaleViews({ orders: 5000, seed, open, sizes: [1, 4096, 20_000, 65_536], dmaMask: 2 ** 39 - 1 });
      assert.ok(stale.length > 5000);
    });
  }
});
