/** Requests to one thread about its devices and pools, and the results. Both can be posted between threads. */
import { threadId } from 'node:worker_threads';

import { DmaArgumentError } from '../errors.ts';
import { blockSnapshot, holders } from './blocks.ts';
import type { BlockSnapshot, Holder, Snapshot } from './format.ts';
import { endRecording } from './recording.ts';
import { devices } from './registry.ts';
import { poolById, snapshot } from './snapshot.ts';
import type { PoolEnd } from './trace-text.ts';

/** A pool of a process: its thread, and its number there. */
export interface PoolAddress {
  readonly thread: number;
  readonly pool: number;
}

/** A request to a thread. */
export type ThreadRequest =
  | { readonly kind: 'snapshot'; readonly blocks: boolean | PoolAddress }
  | { readonly kind: 'block'; readonly pool: number; readonly index: number }
  | { readonly kind: 'holders'; readonly pool: number }
  | { readonly kind: 'sysfs'; readonly path: string }
  | { readonly kind: 'end-recording' };

/** The result of each kind of request; null if there is no such object. */
export interface ThreadResults {
  readonly snapshot: Snapshot;
  readonly block: BlockSnapshot | null;
  readonly holders: readonly Holder[] | null;
  readonly sysfs: string | null;
  readonly 'end-recording': ReadonlyMap<number, PoolEnd>;
}

/** Executes a request in this thread. */
export function execute<K extends ThreadRequest['kind']>(
  request: ThreadRequest & { readonly kind: K },
): ThreadResults[K];
export function execute(request: ThreadRequest): ThreadResults[ThreadRequest['kind']] {
  switch (request.kind) {
    case 'snapshot': {
      const { blocks } = request;
      if (typeof blocks === 'boolean') return snapshot({ blocks });
      const pool = blocks.thread === threadId ? orNull(() => poolById(blocks.pool)) : null;
      return snapshot({ blocks: pool ?? false });
    }
    case 'block':
      return orNull(() => blockSnapshot(poolById(request.pool), request.index));
    case 'holders':
      return orNull(() => holders(poolById(request.pool)));
    case 'sysfs':
      return readSysfs(request.path);
    case 'end-recording':
      return endRecording();
  }
}

function orNull<T>(action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (error instanceof DmaArgumentError) return null;
    throw error;
  }
}

/** The text of an attribute. For a device or a folder of devices, the names in it, one per line. */
function readSysfs(path: string): string | null {
  const names = new Set<string>();
  const wanted = path.replace(/\/+$/, '');
  for (const device of devices()) {
    if (device.path === wanted) for (const name of device.attributeNames()) names.add(name);
    if (device.path.startsWith(`${wanted}/`)) names.add(device.path.slice(wanted.length + 1).split('/')[0]!);
    const name = wanted.slice(device.path.length + 1);
    if (wanted === `${device.path}/${name}`) {
      const text = device.readAttribute(name);
      if (text !== undefined) return text;
    }
  }
  return names.size === 0
    ? null
    : [...names]
        .sort()
        .map((name) => `${name}\n`)
        .join('');
}
