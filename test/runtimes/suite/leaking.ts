/** A program that leaks two blocks; run with DMAPOOL_DEBUG=1. */
import { Device, DmaPool } from '../../../src/index.ts';

const pool = DmaPool.create('rx', new Device({ name: 'nic' }), { size: 256 });
for (let i = 0; i < 2; i++) pool.alloc();
