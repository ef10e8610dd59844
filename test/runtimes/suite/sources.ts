/** Runs without a build, in runtimes that support that. */
import { Device, DmaPool } from '../../../src/index.ts';

const pool = DmaPool.create('ehci_qtd', new Device({ name: 'ehci' }), { size: 96, align: 32, boundary: 4096 });
pool.free(pool.alloc());
console.log(`${String(pool.statistics().blocks)} blocks a page`);
