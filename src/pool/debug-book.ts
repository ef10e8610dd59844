import type { Site } from './site.ts';

/** What debug mode remembers of each block. */
export interface DebugBook {
  /** It was handed out once more, by this place in the program if that is recorded. */
  allocated(index: number, site: Site | undefined): void;
  freed(index: number, site: Site | undefined): void;
  /** How often it was handed out: what tells one holder's handle from the next one's. */
  generationOf(index: number): number;
  /** Where it was handed out last, and where it was freed last, if that is known. */
  allocatedAt(index: number): string | undefined;
  freedAt(index: number): string | undefined;
}

/** The book of one thread. */
export class LocalBook implements DebugBook {
  readonly #allocatedAt: (Site | undefined)[] = [];
  readonly #freedAt: (Site | undefined)[] = [];
  readonly #generations: number[] = [];

  allocated(index: number, site: Site | undefined): void {
    this.#generations[index] = this.generationOf(index) + 1;
    if (site !== undefined) this.#allocatedAt[index] = site;
  }

  freed(index: number, site: Site | undefined): void {
    if (site !== undefined) this.#freedAt[index] = site;
  }

  generationOf(index: number): number {
    return this.#generations[index] ?? 0;
  }

  allocatedAt(index: number): string | undefined {
    return this.#allocatedAt[index]?.describe();
  }

  freedAt(index: number): string | undefined {
    return this.#freedAt[index]?.describe();
  }
}
