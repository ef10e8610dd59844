/** On which NUMA node this thread's memory is taken (set_mempolicy(2)). */
import { libc } from './libc.ts';

const MPOL_BIND = 2;
/** Bytes of a set of nodes: the kernel has at most 1024 of them. */
const MASK_BYTES = 128;

/**
 * Runs `action` so that what it allocates is taken from that node only; -1: from where the kernel likes.
 *
 * @throws {@link SystemCallError} `EINVAL` when there is no such node, `ENOSYS` where the kernel knows no nodes.
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
