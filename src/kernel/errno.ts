/** Error numbers that the calls here return, negated, as in Linux (`include/uapi/asm-generic/errno-base.h`). */

/** Input or output error: what `dma_set_mask_and_coherent` returns for a mask that can't be had. */
export const EIO = 5;
/** Out of memory: for a `probe` of yours, when a pool or a block could not be had. */
export const ENOMEM = 12;
/** It exists already: what `device_create_file` returns for a name that is taken. */
export const EEXIST = 17;
/** An argument is wrong. */
export const EINVAL = 22;
