import type { ReplayMismatch, ReplayResult, ReplayRow } from '../trace/index.ts';

interface Figures {
  active: number;
  blocks: number;
  size: number;
  pages: number;
}

/** What `dmapool replay --json` prints for one file. */
export interface ReplayDocument {
  readonly trace: string;
  readonly events: number;
  readonly allocs: number;
  readonly frees: number;
  readonly failures: number;
  readonly mismatches: readonly ReplayMismatch[];
  readonly elapsedNs: number;
  readonly nsPerEvent: number;
  readonly snapshots: readonly {
    readonly label: string;
    readonly pools: readonly ({ device: string; name: string } & Figures & { kernel: Figures | null })[];
  }[];
  readonly pools: readonly {
    readonly id: number;
    readonly device: string;
    readonly name: string;
    readonly size: number;
    readonly align: number;
    readonly boundary: number;
    readonly blockSize: number;
    readonly allocation: number;
    readonly blocksPerPage: number;
    readonly maxActive: number;
    readonly pages: number;
    readonly allocs: number;
    readonly frees: number;
  }[];
}

/** The document for a result: these fields in this order, and no others. */
export function replayJson(result: ReplayResult): ReplayDocument {
  const { trace, events, allocs, frees, failures, elapsedNs } = result;
  return {
    trace,
    events,
    allocs,
    frees,
    failures,
    mismatches: result.mismatches.map(({ snapshot, device, pool, field, ours, kernel }) => {
      return { snapshot, device, pool, field, ours, kernel };
    }),
    elapsedNs,
    nsPerEvent: events === 0 ? 0 : elapsedNs / events,
    snapshots: result.snapshots
      .filter((snapshot) => snapshot.recorded)
      .map(({ label, files }) => ({
        label,
        pools: files.flatMap(({ device, rows }) => rows.flatMap((row) => rowJson(device, row))),
      })),
    pools: result.pools.map((pool) => ({
      id: pool.id,
      device: pool.device,
      name: pool.name,
      size: pool.size,
      align: pool.align,
      boundary: pool.boundary,
      blockSize: pool.blockSize,
      allocation: pool.allocation,
      blocksPerPage: pool.blocksPerPage,
      maxActive: pool.maxActive,
      pages: pool.pages,
      allocs: pool.allocs,
      frees: pool.frees,
    })),
  };
}

function rowJson(device: string, { ours, kernel }: ReplayRow): ReplayDocument['snapshots'][number]['pools'] {
  if (ours === null) return [];
  return [{ device, name: ours.name, ...figures(ours), kernel: kernel === null ? null : figures(kernel) }];
}

function figures({ active, blocks, size, pages }: Figures): Figures {
  return { active, blocks, size, pages };
}
