/** Refusals: why a backend has no block. A module of constants only, so that bundlers inline them. */

/** The memory source is exhausted. */
export const NO_MEMORY = -1;
/** The pool reached `maxBlocks`. */
export const AT_LIMIT = -2;
/** No block is free, and the call may take no page. */
export const NO_PAGE_ALLOWED = -3;
/** The engine can't allocate larger tables. The caller gets NO_MEMORY. */
export const NO_TABLES = -4;

/** The result of a call that has no block, in place of an index. */
export type Refusal = typeof NO_MEMORY | typeof AT_LIMIT | typeof NO_PAGE_ALLOWED;
