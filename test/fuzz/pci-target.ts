/** Fuzz target `pci`: a `PciFunction` on a guarded fake function. */
import { FEATURES, PciHistory } from './pci-history.ts';
import { shrinkHistory } from './shrink-history.ts';
import type { FuzzTarget } from './target.ts';

export const pciTarget: FuzzTarget = {
  name: 'pci',
  runCase: (seed) => new PciHistory({ seed }).run(),
  shrink: (seed) => shrinkHistory(FEATURES, (features, operations) => new PciHistory({ seed, features, operations })),
};
