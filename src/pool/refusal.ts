import { DmaOutOfMemoryError, hex } from '../errors.ts';
import { AT_LIMIT, NO_PAGE_ALLOWED, type PoolCounts } from './backend.ts';

/** What there is to say about a pool that has no block. */
export interface RefusalContext {
  readonly label: string;
  readonly source: string;
  readonly allocation: number;
  readonly mask: number;
  readonly maxBlocks: number;
  readonly counts: PoolCounts;
  /** Which other pools could give memory back to the source, as a clause that begins with a separator. Default: empty. */
  readonly idle?: string;
}

/** The error for `count` blocks that could not be had. */
export function refusalError(refusal: number, count: number, context: RefusalContext): DmaOutOfMemoryError {
  const { label, source, allocation, mask, maxBlocks, counts, idle = '' } = context;
  const { active, blocks, pages } = counts;
  const wanted = count === 1 ? 'a block' : `${count} blocks`;
  const state = `${active} of ${blocks} blocks on ${pages} pages are out`;
  switch (refusal) {
    case AT_LIMIT:
      return new DmaOutOfMemoryError(
        'ERR_DMAPOOL_LIMIT',
        count > maxBlocks
          ? `${label}: ${wanted} are more than its limit of ${maxBlocks}; raise maxBlocks`
          : `${label}: ${wanted} would exceed its limit of ${maxBlocks} (${state}); free some, raise maxBlocks, or use allocWait()`,
      );
    case NO_PAGE_ALLOWED:
      return new DmaOutOfMemoryError(
        'ERR_DMAPOOL_NO_FREE_BLOCK',
        `${label}: ${wanted} would need a new page, and grow is false (${state}); reserve() enough beforehand`,
      );
    default:
      return new DmaOutOfMemoryError(
        'ERR_DMAPOOL_NO_MEMORY',
        `${label}: memory source ${source} has no ${allocation} bytes left below the mask ${hex(mask)} ` +
          `(${state})${idle}; free some, raise the source's limit, or use allocWait()`,
      );
  }
}
