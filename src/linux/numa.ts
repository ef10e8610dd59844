/** NUMA placement of memory that this thread allocates (set_mempolicy(2)). */
import { libc } from './libc.ts';

const MPOL_BIND = 2;
/** Bytes of a node mask: the kernel supports up to 1024 nodes. */
const MASK_BYTES = 128;

/**
 * Runs `action` with its memory allocated on `node` only; -1 keeps the thread's policy.
 *
 * @throws {@link SystemCallError} `EINVAL` when the node does not exist, `ENOSYS` on kernels without NUMA.
 */
export function onNode<T>(node: number, action: () => T): T {
  if (node === -1) return action();
  const calls = libc();
  const before = new Uint8Array(MASK_BYTES);
  const mode = calls.getMemoryPolicy(before);
  const only = new Uint8Array(MASK_BYTES);
  only[node >> 3] = 1 << (node & 7);
  calls.setMemoryPolicy(MPOL_BIND, only);
  try {
    return action();
  } finally {
    calls.setMemoryPolicy(mode, before);
  }
}
