/**
 * The formats of namespaces, and the commands that may change them: Format NVM (5.23), Namespace Management (5.20), and
 * Namespace Attachment (5.19). NVM Express Base Specification 1.4.
 *
 * A transfer counts in blocks. With a block size that its namespace no longer has, it goes past the end of its memory, or
 * to other blocks than were meant. Therefore a namespace is stale from the moment that such a command is asked for; the
 * command waits for the transfers of its namespaces; and what identifies one of them waits for the command.
 */

import type { NvmeNamespaceIdentity } from './identify.ts';

/** Namespace ID that stands for all of them. */
export const ALL_NAMESPACES = 0xffff_ffff;

/** The format of a namespace, shared by those who opened it. */
export class NamespaceFormat {
  readonly blockSize: number;
  /** It may have changed: {@link NamespaceFormat.blockSize} must not be used any more. */
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
  /** By namespace ID. None is stale. */
  readonly #known = new Map<number, NamespaceFormat>();
  /** Commands under way. */
  readonly #changes = new Set<Change>();
  #begun = 0;

  /** The format of a namespace that was identified and has not changed since. */
  get(nsid: number): NamespaceFormat | undefined {
    return this.#known.get(nsid);
  }

  /**
   * Opens a namespace while no command changes its format.
   *
   * @param identify Done again when such a command began meanwhile.
   * @param open Makes the namespace; what it throws leaves nothing behind.
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
      // From the comparison to here nothing is awaited: no command can begin in between.
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

/** Says whether a command with the ID `changed` concerns a namespace. */
export function covers(changed: number, nsid: number): boolean {
  return changed === ALL_NAMESPACES || changed === nsid;
}
