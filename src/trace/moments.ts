/**
 * The state of our pools while the kernel's files were read.
 *
 * The recorder read one file after the other while drivers continued, so that a snapshot is an interval, and each file is
 * valid for one moment of it. An epoch is a part of that interval without a change in a device's list of pools.
 */
import type { PoolsRow } from './expectations.ts';

/** One of our pools during an epoch. */
export interface EpochRow {
  /** Index of the pool in the trace. */
  readonly pool: number;
  /** At the beginning of the epoch. The name is not cut. */
  readonly row: PoolsRow;
  /** All numbers of active blocks during the epoch. */
  readonly actives: Set<number>;
  /** All numbers of pages during the epoch. */
  readonly pageCounts: Set<number>;
  /** The kernel's pages at the beginning of the epoch, or at the last race in it. */
  pages: KernelPages;
}

/** The kernel's pages of one pool at a moment, according to the trace. */
export interface KernelPages {
  /** Number of the kernel's pages. */
  readonly recorded: number;
  /** Of these, pages that it took although blocks were free. */
  readonly raced: number;
  /** Maximum number of allocated blocks. */
  readonly peak: number;
}

/** The pools of a device, newest first. */
export type Epoch = readonly EpochRow[];

/** One device during a snapshot. */
export interface DeviceMoments {
  readonly device: string;
  /** Text of the `pools` attribute at the beginning; null if there was none. */
  readonly text: string | null;
  /** At least one; the first begins with the snapshot. */
  readonly epochs: Epoch[];
}

/** All devices during a snapshot. */
export interface SnapshotMoments {
  readonly label: string;
  /** All devices of the trace, in ascending order of names. */
  readonly devices: readonly DeviceMoments[];
}

/** The current state of our pools, for a recorder. */
export interface PoolsNow {
  /** Names of the devices, ascending. */
  readonly devices: readonly string[];
  /** The rows of a device's pools, newest first. */
  rows(device: string): EpochRow[];
  /** Text of a device's `pools` attribute, or null. */
  text(device: string): string | null;
}

/** Records the moments of each snapshot during a replay. */
export class MomentRecorder {
  readonly snapshots: SnapshotMoments[] = [];
  readonly #now: PoolsNow;
  #open: Map<string, DeviceMoments> | null = null;
  /** The rows of the last epoch of each device, by index of the pool. */
  readonly #rows = new Map<number, EpochRow>();

  constructor(now: PoolsNow) {
    this.#now = now;
  }

  begin(label: string): void {
    const devices = this.#now.devices.map((device) => {
      return { device, text: this.#now.text(device), epochs: [this.#now.rows(device)] };
    });
    this.#open = new Map(devices.map((moments) => [moments.device, moments]));
    this.#rows.clear();
    for (const { epochs } of devices) for (const row of epochs[0]!) this.#rows.set(row.pool, row);
    this.snapshots.push({ label, devices });
  }

  end(): void {
    this.#open = null;
  }

  /** A pool of the device was created or destroyed. */
  changed(device: string): void {
    const epochs = this.#open?.get(device)?.epochs;
    if (epochs === undefined) return;
    for (const { pool } of epochs.at(-1)!) this.#rows.delete(pool);
    const rows = this.#now.rows(device);
    for (const row of rows) this.#rows.set(row.pool, row);
    epochs.push(rows);
  }

  /** Records the active blocks and the pages of a pool after a call, and the kernel's pages. */
  counts(pool: number, active: number, pages: number, { recorded, raced, peak }: KernelPages): void {
    const row = this.#open === null ? undefined : this.#rows.get(pool);
    if (row === undefined) return;
    row.actives.add(active);
    row.pageCounts.add(pages);
    if (raced > row.pages.raced) row.pages = { recorded, raced, peak };
  }
}
