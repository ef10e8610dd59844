import type { DmaPool } from '../index.ts';
import { findCollector } from './collector.ts';
import { BULK, type HeldBlocks, type Round, objectRound } from './rounds.ts';

/** Calls of each form on each pool, to have it compiled. */
export const WARM_CALLS = 2000;

/**
 * Brings engine and pools to where they are after a while in a driver.
 *
 * Many short calls come first. If the first calls were long, the engine would replace their running loops by code that
 * is good for the first loop alone, leave it at the second, and go through this in every call from then on, since that
 * code is kept and a function of few calls is not compiled whole: a tenth of the time, in some processes.
 */
export function warmUp(
  rounds: readonly Round[],
  pools: readonly { readonly pool: DmaPool; readonly blocks: number }[],
  held: HeldBlocks,
): void {
  for (const round of rounds) {
    for (let call = 0; call < WARM_CALLS; call++) {
      for (const { pool } of pools) round(pool, held, BULK);
    }
  }
  // Now all block objects get made, and then old, as a driver's soon are: each store of a young object into an old array
  // is noted by the engine (the write barrier), which costs whoever stores it 3 ns; without this, in some geometries
  // and not in others, as collections fall.
  for (const { pool, blocks } of pools) objectRound(pool, held, blocks);
  held.objects.fill(null);
  findCollector()?.();
}
