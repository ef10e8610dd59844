/** Fuzz target `nvme`: the NVMe driver on a guarded fake controller. */
import { FEATURES, NvmeHistory } from './nvme-history.ts';
import { shrinkHistory } from './shrink-history.ts';
import type { FuzzTarget } from './target.ts';

export const nvmeTarget: FuzzTarget = {
  name: 'nvme',
  runCase: (seed) => new NvmeHistory({ seed }).run(),
  shrink: (seed) => shrinkHistory(FEATURES, (features, operations) => new NvmeHistory({ seed, features, operations })),
};
