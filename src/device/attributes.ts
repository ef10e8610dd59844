import { checkFunction } from '../arguments.ts';
import { DmaArgumentError, DmaExistsError } from '../errors.ts';

/** Text of an attribute, made when it is read (Linux: a `show` method). */
export type AttributeShow = () => string;

/** A device's attributes: what stands as files in its sysfs directory. */
export class Attributes {
  readonly #device: string;
  readonly #shows = new Map<string, AttributeShow>();

  constructor(device: string) {
    this.#device = device;
  }

  /** The function returned takes this attribute away, and no other of its name that may have come later. */
  add(name: string, show: AttributeShow): () => boolean {
    if (typeof name !== 'string' || name === '' || name.includes('/') || name.includes('\0')) {
      throw new DmaArgumentError('attribute name', name, 'a file name: not empty, no slash');
    }
    checkFunction('show', show);
    if (this.#shows.has(name)) throw new DmaExistsError(`${this.#device}: an attribute ${name} exists already`);
    // Wrapped, so that two attributes are never taken for one because they share a function.
    const own: AttributeShow = () => show();
    this.#shows.set(name, own);
    return () => this.#shows.get(name) === own && this.#shows.delete(name);
  }

  remove(name: string): boolean {
    return this.#shows.delete(name);
  }

  read(name: string): string | undefined {
    return this.#shows.get(name)?.();
  }

  names(): string[] {
    return [...this.#shows.keys()];
  }
}
