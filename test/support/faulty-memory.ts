/** Memory sources that fail when told to, and count. */
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';

/** What a call does: succeed, say that there is no memory, or throw. */
export type Fate = 'ok' | 'none' | 'throw';

/** Another source that fails when told to, and counts. */
export class FaultySource implements CoherentAllocator {
  readonly name: string = 'faulty';
  readonly pageSize: number;
  readonly live = new Set<CoherentMemory>();
  readonly requests: CoherentRequest[] = [];
  calls = 0;
  frees = 0;
  /** Calls that did not succeed. */
  failed = 0;
  /** Called before each allocation with its number, from 0; what it says happens. */
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

/** Heap memory that fails when told to, and tells when there is some again. */
export class FaultyMemory extends FaultySource {
  readonly onceAvailable: (listener: () => void) => () => void;

  constructor(options: { limit?: number; pageSize?: number } = {}) {
    const memory = new HeapMemory(options);
    super(memory);
    this.onceAvailable = (listener) => memory.onceAvailable(listener);
  }
}
