/** Error numbers, which these calls return negated, as in Linux (`include/uapi/asm-generic/errno-base.h`). */

/** I/O error: `dma_set_mask_and_coherent` returns it for a mask that can't be set. */
export const EIO = 5;
/** Out of memory: for the driver's own `probe`, when a pool or a block can't be allocated. */
export const ENOMEM = 12;
/** Exists: `device_create_file` returns it for a name that is in use. */
export const EEXIST = 17;
/** Invalid argument. */
export const EINVAL = 22;
