/** Reports, when the process ends, the blocks of debug pools that are still out. */

import type { Device } from '../device/device.ts';
import { observer } from '../memory/observer.ts';
import type { PoolBackend } from './backend.ts';

/** A pool whose blocks are reported at the end. */
export interface ExitReporter {
  readonly name: string;
  readonly device: Device;
  readonly backend: Pick<PoolBackend, 'counts' | 'holders'>;
}

/** The little of Node's `process` that is needed; Bun and Deno have it too, browsers do not. */
interface ProcessLike {
  readonly env?: Readonly<Record<string, string | undefined>>;
  on?(event: 'exit', listener: () => void): unknown;
}

function processLike(): ProcessLike | undefined {
  return (globalThis as { process?: ProcessLike }).process;
}

const pools = new Set<ExitReporter>();
let listening = false;

/** Has `pool` asked when the process ends. Holds on to it: a leak is to be reported also when nobody knows the pool any more. */
export function reportAtExit(pool: ExitReporter): void {
  pools.add(pool);
  if (listening) return;
  listening = true;
  processLike()?.on?.('exit', () => {
    for (const { name, device, backend } of pools) {
      try {
        const { active } = backend.counts();
        if (active > 0) {
          observer?.event('leak', backend, active);
          device.report('error', `${name} leaked`, `${name}: at the end of the process ${backend.holders()}`);
        }
      } catch {
        // The log is the user's code. The other pools have their turn, and the other listeners theirs.
      }
    }
  });
}

/** The pool has nothing to report any more. */
export function forgetAtExit(pool: ExitReporter): void {
  pools.delete(pool);
}

/** True when the environment asks for debug mode in every pool that does not say otherwise (`DMAPOOL_DEBUG=1`). */
export function debugByEnvironment(): boolean {
  try {
    const value = processLike()?.env?.['DMAPOOL_DEBUG'];
    return value !== undefined && !/^(0|false|no|off|)$/i.test(value);
  } catch {
    // Deno throws where the environment may not be read.
    return false;
  }
}
