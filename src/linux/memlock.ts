/** Reads the memlock limit of this process. Memory mapped for VFIO devices counts as locked (mlock(2)). */
import { readFileSync } from 'node:fs';

/** CAP_IPC_LOCK as a bit mask of capabilities(7). */
const CAP_IPC_LOCK = 1n << 14n;

/** Files of the process; tests pass others. */
export interface MemlockFiles {
  readonly limits: string;
  readonly status: string;
}

const OWN: MemlockFiles = { limits: '/proc/self/limits', status: '/proc/self/status' };

/** The memlock limit and the locked amount, in bytes. */
export interface Memlock {
  /** `Infinity` for no limit. */
  readonly limit: number;
  readonly locked: number;
}

export function memlock(files: MemlockFiles = OWN): Memlock {
  const status = readFileSync(files.status, 'utf8');
  const locked = Number(/^VmLck:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  const capabilities = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  if ((capabilities & CAP_IPC_LOCK) !== 0n) return { limit: Infinity, locked };
  const soft = /^Max locked memory\s+(\S+)/m.exec(readFileSync(files.limits, 'utf8'))?.[1];
  return { limit: soft === undefined || soft === 'unlimited' ? Infinity : Number(soft), locked };
}
