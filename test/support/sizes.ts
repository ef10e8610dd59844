/** Bytes. */
export const MIB: number = 1024 * 1024;
