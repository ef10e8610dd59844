/** The operations on the kernel's pools and on ours. `module/oracle.h` has the same operations and limits. */

/** Pools at a time. */
export const SLOTS = 128;
/** Allocated blocks per pool. */
export const MAX_BLOCKS = 512;
/** Size of the largest page in bytes. Both memories refuse larger ones. */
export const LARGEST_PAGE = 2 ** 20;
/** Operations per hash of a stream. */
export const CHUNK = 4096;

/** Flags of an alloc. */
export const ZERO = 1;
export const ATOMIC = 2;
/** The kernel allocates with `GFP_ATOMIC`, our pools with `grow: false`. Intended differences only. */
export const NO_GROW = 4;

/** The order of a free: the last block of the pool's list, the first one, or the one at a position. */
export const STACK = 0;
export const QUEUE = 1;
export const ANYWHERE = 2;

/** One operation on the pool in a slot. */
export type Operation =
  | {
      readonly kind: 'create';
      readonly slot: number;
      readonly size: number;
      readonly align: number;
      readonly boundary: number;
      readonly name: string;
    }
  /** Allocates `count` blocks or none, as our bulk calls do. */
  | { readonly kind: 'alloc'; readonly slot: number; readonly flags: number; readonly count: number }
  | {
      readonly kind: 'free';
      readonly slot: number;
      readonly order: number;
      readonly count: number;
      readonly position: number;
    }
  | { readonly kind: 'destroy'; readonly slot: number }
  /** Reads the device's `pools` attribute. */
  | { readonly kind: 'text' }
  /** The next `count` requests for a page are refused. */
  | { readonly kind: 'refuse'; readonly count: number }
  /** Reads the number of pages that the last destroy kept. */
  | { readonly kind: 'kept' }
  // The following operations are in lists of intended differences only.
  /** The next request for a page frees the pool's last block first, as another CPU can while the lock is dropped. */
  | { readonly kind: 'race'; readonly slot: number }
  /** Frees the block that was freed last again. */
  | { readonly kind: 'free-again'; readonly slot: number }
  /** A device writes to the block that was freed last: a link to the first allocated block, and the end of a list there. */
  | { readonly kind: 'device-write'; readonly slot: number }
  /** Sets the DMA mask to this number of bits. */
  | { readonly kind: 'mask'; readonly bits: number }
  /** Returns pages without allocated blocks, if there is such a call. Reads the number of allocated pages. */
  | { readonly kind: 'trim'; readonly slot: number };

/** Returns the operation as a line for the module. */
export function moduleLine(operation: Operation): string {
  switch (operation.kind) {
    case 'create': {
      const { slot, size, align, boundary, name } = operation;
      return `c ${slot} ${size} ${align} ${boundary} ${Buffer.from(name).toString('hex') || '-'}`;
    }
    case 'alloc':
      return `a ${operation.slot} ${operation.flags} ${operation.count}`;
    case 'free':
      return `f ${operation.slot} ${operation.order} ${operation.count} ${operation.position}`;
    case 'destroy':
      return `d ${operation.slot}`;
    case 'text':
      return 't';
    case 'refuse':
      return `x ${operation.count}`;
    case 'kept':
      return 'k';
    case 'race':
      return `r ${operation.slot}`;
    case 'free-again':
      return `g ${operation.slot}`;
    case 'device-write':
      return `w ${operation.slot}`;
    case 'mask':
      return `m ${operation.bits}`;
    case 'trim':
      return `e ${operation.slot}`;
  }
}

/** Returns the operation as a call, for messages. */
export function describeOperation(operation: Operation): string {
  switch (operation.kind) {
    case 'create': {
      const { slot, size, align, boundary, name } = operation;
      return `pool[${slot}] = create(${JSON.stringify(name)}, size ${size}, align ${align}, boundary ${boundary})`;
    }
    case 'alloc': {
      const { slot, flags, count } = operation;
      const gfp = (flags & ATOMIC) === 0 ? 'GFP_KERNEL' : 'GFP_ATOMIC';
      return `${(flags & ZERO) === 0 ? 'alloc' : 'zalloc'}(pool[${slot}], ${gfp})${count === 1 ? '' : ` ${count} times`}`;
    }
    case 'free': {
      const { slot, order, count, position } = operation;
      const which = order === STACK ? 'last' : order === QUEUE ? 'first' : `at ${position}`;
      return `free(pool[${slot}], ${which})${count === 1 ? '' : ` ${count} times`}`;
    }
    case 'destroy':
      return `destroy(pool[${operation.slot}])`;
    case 'text':
      return 'read the device’s pools';
    case 'refuse':
      return `refuse the next ${operation.count} pages`;
    case 'kept':
      return 'read the pages that the last destroy kept';
    case 'race':
      return `free(pool[${operation.slot}], last) during the next request for a page`;
    case 'free-again':
      return `free(pool[${operation.slot}]) of the block freed last`;
    case 'device-write':
      return `write to the block of pool[${operation.slot}] freed last`;
    case 'mask':
      return `set a DMA mask of ${operation.bits} bits`;
    case 'trim':
      return `trim(pool[${operation.slot}])`;
  }
}
