/** Where a thread's time goes, by V8's sampling profiler: which part of the project, the runtime, or nowhere. */
import type { Profiler } from 'node:inspector/promises';

/**
 * Parts of the time. `epoll`: the event loop waits for the system, or only asks it, as it does in each turn; `pci`: registers
 * and interrupts.
 */
export const PARTS = ['epoll', 'pci', 'driver', 'allocator', 'runtime', 'benchmark'] as const;
export type Part = (typeof PARTS)[number];
/** Share of each part, 0 to 1. */
export type TimeShares = Readonly<Record<Part, number>>;

/** By the path of a module. */
const MODULES: readonly (readonly [RegExp, Part])[] = [
  [/\/src\/(pci|linux)\//, 'pci'],
  [/\/drivers\//, 'driver'],
  [/\/src\/(pool|memory|device|shared)\//, 'allocator'],
  [/\/bench\//, 'benchmark'],
  // The event loop, promises.
  [/^node:/, 'runtime'],
];

function partOf({ url, functionName }: Profiler.ProfileNode['callFrame'], parent: Part): Part {
  if (functionName === '(idle)') return 'epoll';
  for (const [module, part] of MODULES) if (module.test(url)) return part;
  // What is native belongs to who called it; the engine's own work has nobody.
  return functionName.startsWith('(') ? 'runtime' : parent;
}

/** Counts the samples of a profile. */
export function timeSharesOf(profile: Profiler.Profile): TimeShares {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const samples: Record<Part, number> = { epoll: 0, pci: 0, driver: 0, allocator: 0, runtime: 0, benchmark: 0 };
  let all = 0;
  const count = (id: number, parent: Part): void => {
    const { callFrame, hitCount = 0, children = [] } = byId.get(id)!;
    const part = partOf(callFrame, parent);
    samples[part] += hitCount;
    all += hitCount;
    for (const child of children) count(child, part);
  };
  count(profile.nodes[0]!.id, 'runtime');
  for (const part of PARTS) samples[part] /= Math.max(all, 1);
  return samples;
}
