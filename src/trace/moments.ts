/**
 * What our pools looked like while the kernel's files were being read.
 *
 * The recorder opened the files one after the other while drivers went on, so a snapshot is a stretch of time, and a
 * file is true for some moment of it. An epoch is a part of that stretch in which a device's list of pools stayed.
 */
import type { PoolsRow } from './expectations.ts';

/** One of our pools during an epoch. */
export interface EpochRow {
  /** Index of the pool in the trace. */
  readonly pool: number;
  /** When the epoch began. The name is not cut. */
  readonly row: PoolsRow;
  /** Every number of active blocks there was. */
  readonly actives: Set<number>;
  /** Every number of pages there was. */
  readonly pageCounts: Set<number>;
  /** The kernel's pages at the beginning of the epoch, or at the last race in it. */
  pages: KernelPages;
}

/** What the trace tells about the kernel's pages of one pool up to some moment. */
export interface KernelPages {
  /** Pages the kernel had. */
  readonly recorded: number;
  /** Of these, pages it took although blocks were free. */
  readonly raced: number;
  /** The most blocks that were out at a time. */
  readonly peak: number;
}

/** The pools of a device, newest first. */
export type Epoch = readonly EpochRow[];

/** One device during a snapshot. */
export interface DeviceMoments {
  readonly device: string;
  /** Text of the `pools` attribute at the beginning; null if there was none. */
  readonly text: string | null;
  /** At least one; the first is the beginning. */
  readonly epochs: Epoch[];
}

/** All devices during a snapshot. */
export interface SnapshotMoments {
  readonly label: string;
  /** In ascending order of the devices' names; every device of the trace is there. */
  readonly devices: readonly DeviceMoments[];
}

/** What a recorder asks about our pools at this moment. */
export interface PoolsNow {
  /** Names of the devices, ascending. */
  readonly devices: readonly string[];
  /** The rows of a device's living pools, newest first. */
  rows(device: string): EpochRow[];
  /** Text of a device's `pools` attribute, or null. */
  text(device: string): string | null;
}

/** Writes down the moments of each snapshot while a trace is replayed. */
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

  /** The device has a pool more or less. */
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
