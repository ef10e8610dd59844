/** How much memory this process may still lock: what devices are given by VFIO counts as locked (mlock(2)). */
import { readFileSync } from 'node:fs';

/** CAP_IPC_LOCK, as a bit of the effective capabilities (capabilities(7)). */
const CAP_IPC_LOCK = 1n << 14n;

/** Files of the process; others in tests. */
export interface MemlockFiles {
  readonly limits: string;
  readonly status: string;
}

const OWN: MemlockFiles = { limits: '/proc/self/limits', status: '/proc/self/status' };

/** Bytes of the limit, and of what is locked already. */
export interface Memlock {
  /** `Infinity` without limit. */
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
