/** Compares our pools with the kernel's at each snapshot. */
import { PoolGeometry } from '../index.ts';
import type { DecodedTrace } from './decode.ts';
import type { PoolsFile, PoolsRow } from './expectations.ts';
import type { Ledger } from './ledger.ts';
import type { DeviceMoments, EpochRow, SnapshotMoments } from './moments.ts';
import { explainPages, type KernelVersion, ordersAsOurs } from './pages.ts';
import type { ReplayFile, ReplayMismatch, ReplayRow, ReplaySnapshot, RowVerdict } from './result.ts';

/** During these snapshots no calls were made, so that `active` must equal ours at the beginning. */
const EXACT_LABELS: ReadonlySet<string> = new Set(['pre-end', 'end']);
/** The kernel keeps a pool's name in 32 bytes, the last one zero. */
const NAME_BYTES = 31;

/** For a snapshot that only the expectations have. */
const NOT_RECORDED: readonly DeviceMoments[] = [];

/** Result of the comparison. */
export interface Comparison {
  readonly snapshots: ReplaySnapshot[];
  readonly mismatches: ReplayMismatch[];
}

/** Compares; `expected` is null if there are no expectations. */
export class Comparer {
  readonly #trace: DecodedTrace;
  readonly #ledgers: readonly Ledger[];
  readonly #version: KernelVersion | null;
  readonly #mismatches: ReplayMismatch[] = [];

  constructor(trace: DecodedTrace, ledgers: readonly Ledger[], version: KernelVersion | null) {
    this.#trace = trace;
    this.#ledgers = ledgers;
    this.#version = version;
  }

  compare(snapshots: readonly SnapshotMoments[], expected: readonly PoolsFile[]): Comparison {
    const result = snapshots.map((snapshot) => this.#snapshot(snapshot, expected));
    const known = new Set(snapshots.map((snapshot) => snapshot.label));
    // Files of a snapshot that the trace does not have: there are no rows of ours.
    for (const label of new Set(expected.map((file) => file.label))) {
      if (!known.has(label)) result.push(this.#snapshot({ label, devices: NOT_RECORDED }, expected));
    }
    return { snapshots: result, mismatches: this.#mismatches };
  }

  #snapshot(snapshot: SnapshotMoments, expected: readonly PoolsFile[]): ReplaySnapshot {
    const { label } = snapshot;
    const kernel = new Map(expected.filter((file) => file.label === label).map((file) => [file.device, file]));
    const ours = new Map(snapshot.devices.map((moments) => [moments.device, moments]));
    const files: ReplayFile[] = [];
    for (const device of [...new Set([...ours.keys(), ...kernel.keys()])].sort()) {
      const moments = ours.get(device) ?? { device, text: null, epochs: [[]] };
      const file = kernel.get(device);
      const rows = this.#rows(label, moments, file?.rows ?? []);
      // A device without pools has no file.
      if (rows.length > 0) files.push({ device, ours: moments.text, kernel: file?.text ?? null, rows });
    }
    return { label, recorded: snapshot.devices !== NOT_RECORDED, files };
  }

  #rows(label: string, { device, epochs }: DeviceMoments, kernel: readonly PoolsRow[]): ReplayRow[] {
    const exact = EXACT_LABELS.has(label);
    const begin = epochs[0]!;
    // Pools may be created and destroyed while the file is read: it must match the list at one moment.
    const candidates = exact ? [begin] : epochs;
    const judged = candidates.map((epoch) => kernel.map((row, i) => this.#differences(epoch[i], row, exact)));
    const best = judged.reduce((a, b) => (b.flat().length < a.flat().length ? b : a));
    const epoch = candidates[judged.indexOf(best)]!;

    return Array.from({ length: Math.max(begin.length, kernel.length) }, (_, i) => {
      const row = kernel[i] ?? null;
      const differences = best[i] ?? [];
      for (const { field, ours, theirs } of differences) {
        const pool = row?.name ?? '';
        this.#mismatches.push({ snapshot: label, device, pool, field, ours, kernel: theirs });
      }
      const reasons = row === null || differences.length > 0 ? [] : this.#reasons(epoch[i], row);
      const ours = begin[i]?.row ?? null;
      return { ours, kernel: row, verdict: verdict(ours, row, differences.length, reasons.length), reasons };
    });
  }

  #differences(ours: EpochRow | undefined, kernel: PoolsRow, exact: boolean): Difference[] {
    if (ours === undefined) return [{ field: 'name', ours: null, theirs: kernel.name }];
    const { name, size, active, pages } = ours.row;
    const found: Difference[] = [];
    if (cutName(name) !== kernel.name) found.push({ field: 'name', ours: name, theirs: kernel.name });
    if (size !== kernel.size) found.push({ field: 'size', ours: size, theirs: kernel.size });
    const right = exact ? active === kernel.active : ours.actives.has(kernel.active);
    if (!right) found.push({ field: 'active', ours: active, theirs: kernel.active });
    if (ordersAsOurs(this.#version) && ours.pages.raced === 0) {
      const equal = exact ? pages === kernel.pages : ours.pageCounts.has(kernel.pages);
      // Kernels since 6.4 report the exact number of blocks.
      const blocks = kernel.pages * this.#geometry(ours.pool).blocksPerPage;
      if (!equal) found.push({ field: 'pages', ours: pages, theirs: kernel.pages });
      else if (blocks !== kernel.blocks) found.push({ field: 'blocks', ours: blocks, theirs: kernel.blocks });
    } else if (pages > kernel.pages) {
      // The number of pages only grows, so its minimum is that at the beginning.
      found.push({ field: 'pages', ours: pages, theirs: kernel.pages });
    }
    return found;
  }

  #reasons(ours: EpochRow | undefined, kernel: PoolsRow): string[] {
    if (ours === undefined) return [];
    // Our number of pages was equal at another moment while the file was read.
    if (ours.pageCounts.has(kernel.pages)) return [];
    return explainPages(
      {
        ...ours.pages,
        ours: ours.row.pages,
        oursPerPage: this.#geometry(ours.pool).blocksPerPage,
        kernel: kernel.pages,
        kernelPerPage: this.#ledgers[ours.pool]!.kernelPerPage,
      },
      this.#version,
    );
  }

  #geometry(pool: number): PoolGeometry {
    const { size, align, boundary } = this.#trace.pools[pool]!;
    return new PoolGeometry({ size, align, boundary });
  }
}

interface Difference {
  readonly field: 'name' | 'size' | 'active' | 'pages' | 'blocks';
  readonly ours: string | number | null;
  readonly theirs: string | number;
}

function verdict(ours: PoolsRow | null, kernel: PoolsRow | null, differences: number, reasons: number): RowVerdict {
  if (kernel === null) return 'alone';
  if (ours === null || differences > 0) return 'differs';
  if (reasons > 0) return 'fewer';
  const same = ours.active === kernel.active && ours.pages === kernel.pages && cutName(ours.name) === kernel.name;
  return same ? 'same' : 'moment';
}

/** A name, cut as in the kernel. */
function cutName(name: string): string {
  const bytes = new TextEncoder().encode(name);
  return new TextDecoder().decode(bytes.subarray(0, NAME_BYTES)).trimEnd();
}
