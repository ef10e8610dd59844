/** Reports blocks of debug pools that are still allocated when the process exits. */

import type { Device } from '../device/device.ts';
import { observer } from '../memory/observer.ts';
import type { PoolBackend } from './backend.ts';

/** A pool to report. */
export interface ExitReporter {
  readonly name: string;
  readonly device: Device;
  readonly backend: Pick<PoolBackend, 'counts' | 'holders'>;
}

/** The part of Node's `process` that is used. Bun and Deno have it too; browsers do not. */
interface ProcessLike {
  readonly env?: Readonly<Record<string, string | undefined>>;
  on?(event: 'exit', listener: () => void): unknown;
}

function processLike(): ProcessLike | undefined {
  return (globalThis as { process?: ProcessLike }).process;
}

const pools = new Set<ExitReporter>();
let listening = false;

/**
 * Registers `pool` for the report at exit. Keeps the pool alive, so that leaks of unreachable pools are reported too.
 */
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
          device.report('error', `${name} leaked`, `${name}: at exit ${backend.holders()}`);
        }
      } catch {
        // The log is user code. Continue with the other pools and the other exit listeners.
      }
    }
  });
}

/** Removes `pool` from the report. */
export function forgetAtExit(pool: ExitReporter): void {
  pools.delete(pool);
}

/** True if the environment variable `DMAPOOL_DEBUG` enables debug mode. It applies to pools without option `debug`. */
export function debugByEnvironment(): boolean {
  try {
    const value = processLike()?.env?.['DMAPOOL_DEBUG'];
    return value !== undefined && !/^(0|false|no|off|)$/i.test(value);
  } catch {
    // Deno throws without permission to read the environment.
    return false;
  }
}
