/** Memory sources with injected failures and counters. */
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';

/** The result of a call: success, no memory, or an exception. */
export type Fate = 'ok' | 'none' | 'throw';

/** Wraps another source: injects failures and counts calls. */
export class FaultySource implements CoherentAllocator {
  readonly name: string = 'faulty';
  readonly pageSize: number;
  readonly live = new Set<CoherentMemory>();
  readonly requests: CoherentRequest[] = [];
  calls = 0;
  frees = 0;
  /** Number of calls that did not succeed. */
  failed = 0;
  /** Called before each allocation with its number, from 0; returns the result to produce. */
  onAlloc: (call: number, request: CoherentRequest) => Fate;
  onFree: (call: number) => 'ok' | 'throw' = () => 'ok';
  readonly #inner: CoherentAllocator;

  constructor(inner: CoherentAllocator, onAlloc: (call: number, request: CoherentRequest) => Fate = () => 'ok') {
    this.#inner = inner;
    this.pageSize = inner.pageSize;
    this.onAlloc = onAlloc;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    this.requests.push(request);
    const fate = this.onAlloc(this.calls++, request);
    if (fate !== 'ok') this.failed++;
    if (fate === 'throw') throw new Error('the source broke');
    const memory = fate === 'none' ? null : this.#inner.allocCoherent(request);
    if (memory !== null) this.live.add(memory);
    return memory;
  }

  freeCoherent(memory: CoherentMemory): void {
    this.#inner.freeCoherent(memory);
    this.live.delete(memory);
    if (this.onFree(this.frees++) === 'throw') throw new Error('the source broke while freeing');
  }
}

/** Heap memory with injected failures, which reports available memory. */
export class FaultyMemory extends FaultySource {
  readonly onceAvailable: (listener: () => void) => () => void;

  constructor(options: { limit?: number; pageSize?: number } = {}) {
    const memory = new HeapMemory(options);
    super(memory);
    this.onceAvailable = (listener) => memory.onceAvailable(listener);
  }
}
