/**
 * Formats of namespaces, and the commands that may change them: Format NVM (5.23), Namespace Management (5.20) and
 * Namespace Attachment (5.19). NVM Express Base Specification 1.4.
 *
 * Transfers count blocks. With an outdated block size a transfer would exceed its memory or address the wrong blocks.
 * Therefore a call of such a command marks its namespaces as stale. The command waits for their transfers in flight, and
 * opening one of them waits for the command.
 */

import type { NvmeNamespaceIdentity } from './identify.ts';

/** Namespace ID that addresses all namespaces. */
export const ALL_NAMESPACES = 0xffff_ffff;

/** Format of a namespace, shared by all its `NvmeNamespace` objects. */
export class NamespaceFormat {
  readonly blockSize: number;
  /** The format may have changed: {@link NamespaceFormat.blockSize} must no longer be used. */
  isStale = false;

  constructor(blockSize: number) {
    this.blockSize = blockSize;
  }
}

interface Change {
  readonly nsid: number;
  readonly over: Promise<unknown>;
}

export class NamespaceFormats {
  /** Formats by namespace ID. None of them is stale. */
  readonly #known = new Map<number, NamespaceFormat>();
  /** Commands in progress. */
  readonly #changes = new Set<Change>();
  #begun = 0;

  /** @returns The format of an opened namespace; undefined if it was not opened or may have changed. */
  get(nsid: number): NamespaceFormat | undefined {
    return this.#known.get(nsid);
  }

  /**
   * Opens a namespace while no command changes its format.
   *
   * @param identify Identifies the namespace. Called again if such a command started meanwhile.
   * @param open Creates the namespace object. If it throws, the state is unchanged.
   */
  async open<N>(
    nsid: number,
    identify: () => Promise<NvmeNamespaceIdentity>,
    open: (identity: NvmeNamespaceIdentity, format: NamespaceFormat) => N,
  ): Promise<N> {
    for (;;) {
      const change = [...this.#changes].find((each) => covers(each.nsid, nsid));
      if (change !== undefined) {
        await change.over;
        continue;
      }
      const begun = this.#begun;
      const identified = await identify();
      if (begun !== this.#begun) continue;
      // Nothing was awaited since the comparison: no command can have started in between.
      const { blockSize } = identified;
      const known = this.#known.get(nsid);
      const format = known?.blockSize === blockSize ? known : new NamespaceFormat(blockSize);
      const opened = open(identified, format);
      if (format !== known) this.#makeStale(nsid);
      this.#known.set(nsid, format);
      return opened;
    }
  }

  /** Runs a command that may change the format of a namespace, or of {@link ALL_NAMESPACES}. */
  async change<T>(nsid: number, command: () => Promise<T>): Promise<T> {
    this.#begun++;
    for (const known of [...this.#known.keys()]) if (covers(nsid, known)) this.#makeStale(known);
    const running = command();
    const change: Change = { nsid, over: running.catch(() => undefined) };
    this.#changes.add(change);
    try {
      return await running;
    } finally {
      this.#changes.delete(change);
    }
  }

  #makeStale(nsid: number): void {
    const known = this.#known.get(nsid);
    if (known === undefined) return;
    known.isStale = true;
    this.#known.delete(nsid);
  }
}

/** @returns True if a command to namespace `changed` affects the namespace. */
export function covers(changed: number, nsid: number): boolean {
  return changed === ALL_NAMESPACES || changed === nsid;
}
