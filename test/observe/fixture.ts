/** Helpers of the tests of `dmapool/observe`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Device, type DeviceLog, type DmaPool } from 'dmapool';
import { type PoolSnapshot, snapshot, type Snapshot, type SnapshotOptions } from 'dmapool/observe';
import { schemaProblems } from '../support/json-schema.ts';

const SCHEMA = JSON.parse(
  readFileSync(new URL('../../../docs/snapshot.schema.json', import.meta.url), 'utf8'),
) as Readonly<Record<string, unknown>>;

/** A log that drops its messages. */
export const silent: DeviceLog = { error: () => undefined, warn: () => undefined, info: () => undefined };

let devices = 0;

/** A device with a unique name and a silent log. */
export function quietDevice(): Device {
  return new Device({ name: `0000:00:${(++devices).toString(16).padStart(2, '0')}.0`, log: silent });
}

/** Validates a snapshot, as JSON, against the schema. */
export function checkSnapshot(seen: Snapshot): Snapshot {
  assert.deepEqual(schemaProblems(SCHEMA, JSON.parse(JSON.stringify(seen))), []);
  return seen;
}

/** The part of a valid snapshot for one pool. */
export function seenOf(pool: DmaPool, options: SnapshotOptions = {}): PoolSnapshot {
  const { devices: all } = checkSnapshot(snapshot(options));
  const device = all.find(({ path }) => path === pool.device.path);
  const found = device?.pools.filter(({ name }) => name === pool.name) ?? [];
  assert.equal(found.length, 1, `one pool ${pool.name} is visible`);
  return found[0]!;
}

/** State and worker of each block of a pool, by index. */
export function blockStates(pool: DmaPool): { readonly state: number; readonly worker: number }[] {
  const { map } = seenOf(pool, { blocks: pool });
  return map!.flatMap(({ blocks }) =>
    [...Buffer.from(blocks, 'base64')].map((byte) => ({ state: byte >> 6, worker: byte & 63 })),
  );
}
